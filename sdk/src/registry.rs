//! How a component becomes known: one registration line, collected by `inventory`.

use crate::{
    Callback, DatasetFormat, Error, Loss, LossScale, LrSchedule, Metric, Optimizer, Result, Tracker,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fmt;

/// A component's options, as the run configuration gives them.
pub type Options = Map<String, Value>;

/// One registered component.
pub struct Component {
    /// Its name, as configurations use it; unique within its kind.
    pub name: &'static str,
    /// What it does, in a line.
    pub doc: &'static str,
    /// The crate it comes from.
    pub source: &'static str,
    /// That crate's version.
    pub version: &'static str,
    /// How it is made.
    pub make: Make,
}

impl Component {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.make.kind()
    }
}

inventory::collect!(Component);

/// All components linked into this binary, in no particular order.
pub fn components() -> impl Iterator<Item = &'static Component> {
    inventory::iter::<Component>()
}

macro_rules! kinds {
    ($($kind:ident = $name:literal),*) => {
        /// The kinds of component.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $(#[doc = concat!("[`", stringify!($kind), "`](trait@crate::", stringify!($kind), ")")] $kind),*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];

            /// Its name in messages: `loss scale`.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),* }
            }
        }

        /// Makes a component from its options.
        pub enum Make {
            $(#[doc = concat!("Makes a [`", stringify!($kind), "`](trait@crate::", stringify!($kind), ").")]
            $kind(fn(&Options) -> Result<Box<dyn $kind>>)),*
        }

        impl Make {
            /// The kind of what it makes.
            pub fn kind(&self) -> Kind {
                match self { $(Make::$kind(_) => Kind::$kind),* }
            }
        }
    };
}
kinds!(
    DatasetFormat = "dataset format",
    LossScale = "loss scale",
    Loss = "loss",
    Optimizer = "optimizer",
    LrSchedule = "schedule",
    Callback = "callback",
    Metric = "metric",
    Tracker = "tracker"
);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Registers a component: kind, name, type.
///
/// The type is its own options: it is read by serde from what the configuration gives beside
/// `name`. Derive `Deserialize` with `#[serde(default, deny_unknown_fields)]` for options, or on a
/// unit struct for none. A doc comment becomes the line that lists show.
#[macro_export]
macro_rules! register {
    ($(#[doc = $doc:literal])* $kind:ident, $name:literal, $component:ty) => {
        const _: () = {
            fn make(
                options: &$crate::Options,
            ) -> $crate::Result<::std::boxed::Box<dyn $crate::$kind>> {
                $crate::private::build::<$component>(options)
                    .map(|component| ::std::boxed::Box::new(component) as _)
            }
            $crate::private::inventory::submit! {
                $crate::Component {
                    name: $name,
                    doc: ::std::concat!($($doc),*).trim_ascii(),
                    source: ::std::env!("CARGO_PKG_NAME"),
                    version: ::std::env!("CARGO_PKG_VERSION"),
                    make: $crate::Make::$kind(make),
                }
            }
        };
    };
}

/// Reads a component from its options; a unit struct takes none.
///
/// # Errors
/// An option that the component does not have, or of the wrong type.
#[doc(hidden)]
pub fn build<T: DeserializeOwned>(options: &Options) -> Result<T> {
    match serde_json::from_value(Value::Object(options.clone())) {
        Ok(component) => Ok(component),
        Err(error) if options.is_empty() => {
            serde_json::from_value(Value::Null).map_err(|_| Error::from(error))
        }
        Err(error) => match serde_json::from_value::<T>(Value::Null) {
            Ok(_) => Err(Error::new(format!(
                "takes no options, found {}",
                options
                    .keys()
                    .map(|key| format!("`{key}`"))
                    .collect::<Vec<_>>()
                    .join(", ")
            ))),
            Err(_) => Err(error.into()),
        },
    }
}
