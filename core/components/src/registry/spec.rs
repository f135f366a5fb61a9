//! A component in a configuration: `"name"`, or `{ name = "...", key = value }`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Name and options.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
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
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Name(String),
    Table {
        name: String,
        #[serde(flatten)]
        options: Map<String, Value>,
    },
}

impl From<Written> for Spec {
    fn from(written: Written) -> Self {
        match written {
            Written::Name(name) => Self::named(name),
            Written::Table { name, options } => Self { name, options },
        }
    }
}
