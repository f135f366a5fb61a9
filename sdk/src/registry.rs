//! How a component becomes known: one registration line, collected by `inventory`.

use crate::{
    Callback, DatasetFormat, Loss, LossScale, LrSchedule, Metric, Optimizer, OptionDoc, Options,
    Result, Tracker,
};
use std::fmt;

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
    /// What can be set.
    pub options: fn() -> Vec<OptionDoc>,
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

            /// The kind of this name; dashes and underscores stand for spaces.
            pub fn from_name(name: &str) -> Option<Self> {
                let name = name.to_ascii_lowercase().replace(['-', '_'], " ");
                Self::ALL.iter().copied().find(|kind| kind.name() == name)
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
/// `name`. Declare it with [`options!`](crate::options), or derive `Deserialize` yourself (on a unit
/// struct for no options at all). The doc comment becomes the line that lists show.
#[macro_export]
macro_rules! register {
    ($(#[doc = $doc:literal])* $kind:ident, $name:literal, $component:ty) => {
        const _: () = {
            fn make(
                options: &$crate::Options,
            ) -> $crate::Result<::std::boxed::Box<dyn $crate::$kind>> {
                #[allow(unused_imports)]
                use $crate::private::{ByDescription, BySerde};
                (&$crate::private::Probe::<$component>::new())
                    .build(options)
                    .map(|component| ::std::boxed::Box::new(component) as _)
            }
            fn options() -> ::std::vec::Vec<$crate::OptionDoc> {
                #[allow(unused_imports)]
                use $crate::private::{ByDescription, BySerde};
                (&$crate::private::Probe::<$component>::new()).options()
            }
            $crate::private::inventory::submit! {
                $crate::Component {
                    name: $name,
                    doc: ::std::concat!("" $(, $doc)*).trim_ascii(),
                    source: ::std::env!("CARGO_PKG_NAME"),
                    version: ::std::env!("CARGO_PKG_VERSION"),
                    make: $crate::Make::$kind(make),
                    options,
                }
            }
        };
    };
}
