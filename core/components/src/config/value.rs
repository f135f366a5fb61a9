//! The types of flags, and how a value of each is read.

use super::StepsOrShare;
use super::flag::ValueKind;
use crate::plugin::PluginSpec;
use crate::registry::Spec;
use crate::similar::did_you_mean;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::ops::Deref;

/// A type that a flag can have.
pub trait FlagValue {
    /// How a value is read.
    const KIND: ValueKind;

    /// Checks a text, where the type has only some.
    ///
    /// # Errors
    /// Another one.
    fn check(_text: &str) -> Result<(), Unexpected> {
        Ok(())
    }
}

/// A text that a flag does not take; says what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unexpected(String);

impl Unexpected {
    /// What was expected.
    pub(super) fn new(expected: impl fmt::Display) -> Self {
        Self(format!("expected {expected}"))
    }

    /// One of these was expected, and perhaps meant.
    pub(super) fn word(found: &str, known: &[&str]) -> Self {
        let known_words = match known {
            [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
            words => words.concat(),
        };
        Self::new(known_words + &did_you_mean(found, known))
    }
}

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unexpected {}

macro_rules! flag_values {
    ($($kind:ident: $($type:ty),+;)*) => {
        $($(impl FlagValue for $type {
            const KIND: ValueKind = ValueKind::$kind;
        })+)*
    };
}
flag_values! {
    Bool: bool;
    Int: i64, u64, usize, u16;
    Float: f64, StepsOrShare;
    Text: String;
    List: Vec<String>;
    Floats: Vec<f64>;
    Json: Map<String, Value>;
    JsonOrFile: Value;
    Component: Spec;
    Components: Vec<Spec>;
    Chain: ScaleChain;
    Plugins: Vec<PluginSpec>;
}

/// Makes a type that is read from a text (`FromStr`) and written as one (`Display`) the value of a flag, in files too.
macro_rules! written_as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = $crate::config::value::Unexpected;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }

        impl $crate::config::value::FlagValue for $type {
            const KIND: $crate::config::flag::ValueKind = $crate::config::flag::ValueKind::Text;

            fn check(text: &str) -> Result<(), $crate::config::value::Unexpected> {
                text.parse::<Self>().map(drop)
            }
        }
    };
}
pub(super) use written_as_text;

/// A flag that may be left out.
impl<T: FlagValue> FlagValue for Option<T> {
    const KIND: ValueKind = T::KIND;

    fn check(text: &str) -> Result<(), Unexpected> {
        T::check(text)
    }
}

/// Loss scales one after another, `a+b`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ScaleChain(Vec<Spec>);

impl ScaleChain {
    /// These loss scales, without options.
    pub fn of(names: &[&str]) -> Self {
        Self(Spec::all_named(names))
    }
}

impl Deref for ScaleChain {
    type Target = [Spec];

    fn deref(&self) -> &[Spec] {
        &self.0
    }
}
