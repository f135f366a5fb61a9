//! How a component becomes known: one registration line, collected by `inventory`.

use crate::{Kind, Make, Need, OptionDoc};

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
    /// What of SDK 1.1 and later it uses.
    pub needs: fn() -> &'static [Need],
    /// Flags of the command line that stand for its options, each with the option's name.
    pub flags: fn() -> Vec<(String, String)>,
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

/// Registers a component: kind, name, type.
///
/// The type is its own options: it is read by serde from what the configuration gives beside
/// `name`. Declare it with [`options!`](crate::options), or derive `Deserialize` yourself (on a unit
/// struct for no options at all). The doc comment becomes the line that lists show. The name is a literal or a `const`;
/// one with `+`, `.` or a space does not compile (a dataset's may have `+` and `.`, as ids have), and neither does an option called `name`.
///
/// ```
/// # use apus_sdk::{LrSchedule, Progress, Result, options, register};
/// const NAME: &str = "flat";
///
/// options! {
///     struct Flat {}
/// }
///
/// impl LrSchedule for Flat {
///     fn factor(&self, _progress: &Progress) -> Result<f64> {
///         Ok(1.0)
///     }
/// }
///
/// register! {
///     /// The same rate at every step.
///     LrSchedule, NAME, Flat
/// }
/// ```
///
/// ```compile_fail,E0080
/// # use apus_sdk::{LrSchedule, Progress, Result, options, register};
/// # options! { struct Flat {} }
/// # impl LrSchedule for Flat {
/// #     fn factor(&self, _progress: &Progress) -> Result<f64> { Ok(1.0) }
/// # }
/// register! { LrSchedule, "nearly.flat", Flat }
/// ```
///
/// ```compile_fail,E0080
/// apus_sdk::options! {
///     struct Flat {
///         name: String = String::new(),
///     }
/// }
/// ```
#[macro_export]
macro_rules! register {
    ($(#[doc = $doc:literal])* $kind:ident, $name:expr, $component:ty $(,)?) => {
        const _: () = {
            const __NAME: &str = $name;
            const _: () = $crate::private::allowed_name($crate::Kind::$kind, __NAME);
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
            fn flags() -> ::std::vec::Vec<(::std::string::String, ::std::string::String)> {
                #[allow(unused_imports)]
                use $crate::private::{ByDescription, BySerde};
                (&$crate::private::Probe::<$component>::new()).flags()
            }
            $crate::private::inventory::submit! {
                $crate::Component {
                    name: __NAME,
                    doc: ::std::concat!("" $(, $doc)*).trim_ascii(),
                    source: ::std::env!("CARGO_PKG_NAME"),
                    version: ::std::env!("CARGO_PKG_VERSION"),
                    make: $crate::Make::$kind(make),
                    options,
                    needs: <$component as $crate::$kind>::needs,
                    flags,
                }
            }
        };
    };
}
