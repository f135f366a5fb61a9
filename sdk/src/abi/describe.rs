//! The description that a plugin gives of itself, as JSON.

use crate::{Component, OptionDoc, components};
use serde::{Deserialize, Serialize};

/// A plugin library.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Description {
    /// Name of its crate.
    pub name: String,
    /// Version of its crate.
    pub version: String,
    /// Version of the SDK it was built with.
    pub sdk: String,
    /// Its components, by kind and name.
    pub components: Vec<ComponentDoc>,
}

/// A component in a plugin library.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComponentDoc {
    /// Name of its [`Kind`](crate::Kind).
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What it does.
    pub doc: String,
    /// What can be set.
    pub options: Vec<OptionDoc>,
}

impl From<&Component> for ComponentDoc {
    fn from(component: &Component) -> Self {
        Self {
            kind: component.kind().name().to_owned(),
            name: component.name.to_owned(),
            doc: component.doc.to_owned(),
            options: (component.options)(),
        }
    }
}

/// This library's description. The order in which components were collected changes from build to
/// build, so they are sorted.
pub(super) fn describe(name: &str, version: &str) -> Description {
    let mut all: Vec<ComponentDoc> = components().map(ComponentDoc::from).collect();
    all.sort_by(|a, b| (&a.kind, &a.name).cmp(&(&b.kind, &b.name)));
    Description {
        name: name.to_owned(),
        version: version.to_owned(),
        sdk: super::SDK_VERSION.to_owned(),
        components: all,
    }
}
