//! What ms-swift calls a built-in component and its options: declared beside the component, found by the host.
//!
//! Only components that are linked into Apus declare this: nothing here crosses the boundary of a plugin library, and a
//! declaration in one has no effect. A plugin's component declares flags with `flags` of [`options!`](crate::options), which it has
//! where it is chosen.

use crate::{Kind, Options, Result};
use std::ops::Bound;

/// Flags and names of a built-in component that have no place in its registration.
pub struct BuiltIn {
    /// The component's kind.
    pub kind: Kind,
    /// The component's name.
    pub name: &'static str,
    /// Whether a plugin's component of the same kind and name takes its place: it came when plugins had been written already.
    pub gives_way: bool,
    /// What a flag of ms-swift that chooses a component of this kind (`optim`) calls it.
    pub aliases: &'static [&'static str],
    /// Flags that stand for options of the component.
    pub flags: &'static [OptionFlag],
    /// The flag after which the help lists `flags`, under the same heading.
    pub after: &'static str,
    /// Those of `flags` that bring the component into a run that does not name it, if they are not 0 or false.
    pub joined_by: &'static [&'static str],
    /// Whether the component does nothing in a run without evaluations, so that its flags are refused there.
    pub needs_evaluations: bool,
    /// Checks the values of a run, by flag, for what the component could only tell when it is too late.
    pub check: fn(&Options) -> Result<()>,
    /// Arguments of ms-swift about the component that are no flags of Apus.
    pub arguments: &'static [Argument],
}

impl BuiltIn {
    /// A declaration that says nothing yet.
    pub const fn new(kind: Kind, name: &'static str) -> Self {
        Self {
            kind,
            name,
            gives_way: false,
            aliases: &[],
            flags: &[],
            after: "",
            joined_by: &[],
            needs_evaluations: false,
            check: |_| Ok(()),
            arguments: &[],
        }
    }
}

/// A flag that stands for an option of a built-in component; how its value is read, the option's type says.
pub struct OptionFlag {
    /// The flag's name.
    pub name: &'static str,
    /// The option's name, or [`CHOOSES`](Self::CHOOSES).
    pub option: &'static str,
    /// Its help, one line.
    pub help: &'static str,
    /// What `docs/from-ms-swift.md` says of it beside ms-swift's flag.
    pub place: &'static str,
    /// Between which numbers it lies, if it is a number.
    pub limits: Option<(Bound<f64>, Bound<f64>)>,
}

impl OptionFlag {
    /// In place of an option: the flag, true or false, chooses the component among those of its kind.
    pub const CHOOSES: &str = "";

    /// A flag for an option that means the same as ms-swift's flag of its name.
    pub const fn new(name: &'static str, option: &'static str, help: &'static str) -> Self {
        Self {
            name,
            option,
            help,
            place: "same",
            limits: None,
        }
    }

    /// The same with what is said of it beside ms-swift's flag.
    #[must_use]
    pub const fn beside(self, place: &'static str) -> Self {
        Self { place, ..self }
    }

    /// The same for a number that is not below this one.
    #[must_use]
    pub const fn at_least(self, least: f64) -> Self {
        Self {
            limits: Some((Bound::Included(least), Bound::Unbounded)),
            ..self
        }
    }

    /// Whether it chooses the component.
    pub fn chooses(&self) -> bool {
        self.option == Self::CHOOSES
    }
}

/// Arguments of ms-swift that are no flags of Apus and are answered alike.
pub struct Argument {
    /// Commands of ms-swift that take them: `sft`, `infer`, `export`.
    pub commands: &'static [&'static str],
    /// Their names.
    pub names: &'static [&'static str],
    /// The answer.
    pub answer: Answer,
}

/// How an argument of ms-swift that is no flag of Apus is treated.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// Whatever its value, it changes nothing in Apus. The text says why.
    NoEffect(&'static str),
    /// It would change something, except with these values. The text says why Apus cannot do it, and what to do.
    Refused(&'static [&'static str], &'static str),
}

inventory::collect!(BuiltIn);

/// What the built-in components declare, by name.
pub fn built_ins() -> Vec<&'static BuiltIn> {
    let mut found: Vec<_> = inventory::iter::<BuiltIn>().collect();
    found.sort_by_key(|built_in| (built_in.kind, built_in.name));
    found
}

/// Declares a [`BuiltIn`](crate::built_in::BuiltIn): kind, name, and the fields that say something.
///
/// ```
/// apus_sdk::built_in! {
///     Optimizer, "adafactor",
///     aliases: &["adafactor_torch"],
/// }
///
/// let found = apus_sdk::built_in::built_ins();
/// assert_eq!(found[0].aliases, ["adafactor_torch"]);
/// ```
#[macro_export]
macro_rules! built_in {
    ($kind:ident, $name:literal, $($field:ident: $value:expr),+ $(,)?) => {
        $crate::private::inventory::submit! {
            $crate::built_in::BuiltIn {
                $($field: $value,)+
                ..$crate::built_in::BuiltIn::new($crate::Kind::$kind, $name)
            }
        }
    };
}
