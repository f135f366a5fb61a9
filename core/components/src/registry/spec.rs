//! A component in a configuration: `"name"`, or `{ name = "...", key = value }`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The name and the options of a component.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "SpecForm")]
pub struct Spec {
    /// The component's name.
    pub name: String,
    /// Its options.
    #[serde(flatten)]
    pub options: Map<String, Value>,
}

impl Spec {
    /// A component without options.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            options: Map::new(),
        }
    }

    /// Components without options.
    pub fn all_named(names: &[&str]) -> Vec<Self> {
        names.iter().map(|name| Self::named(*name)).collect()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecForm {
    Name(String),
    Table {
        name: String,
        #[serde(flatten)]
        options: Map<String, Value>,
    },
}

impl From<SpecForm> for Spec {
    fn from(written: SpecForm) -> Self {
        match written {
            SpecForm::Name(name) => Self::named(name),
            SpecForm::Table { name, options } => Self { name, options },
        }
    }
}
