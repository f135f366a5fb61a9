//! The types of flags, and how a value of each is read.

use super::StepsOrShare;
use super::flag::ValueKind;
use crate::plugin::PluginSpec;
use crate::registry::Spec;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::ops::Deref;

/// A type that a flag can have.
pub trait FlagValue {
    /// How a value is read.
    const KIND: ValueKind;
}

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

/// A flag that may be left out.
impl<T: FlagValue> FlagValue for Option<T> {
    const KIND: ValueKind = T::KIND;
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
