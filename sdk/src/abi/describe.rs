//! The description that a plugin gives of itself, as JSON.

use crate::{Component, Need, OptionDoc, components};
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
#[serde(from = "Written", into = "Written")]
pub struct ComponentDoc {
    /// Name of its [`Kind`](crate::Kind).
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What it does.
    pub doc: String,
    /// What can be set.
    pub options: Vec<OptionDoc>,
    /// Names of its [`Need`]s.
    pub needs: Vec<String>,
    /// Flags of the command line that stand for its options, each with the option's name.
    pub flags: Vec<(String, String)>,
}

impl ComponentDoc {
    /// Those of its needs that this SDK knows, and the names of the others.
    pub fn known_needs(&self) -> (Vec<Need>, Vec<&str>) {
        let (known, unknown): (Vec<&String>, Vec<&String>) = self
            .needs
            .iter()
            .partition(|name| Need::from_name(name).is_some());
        let known = known.into_iter().filter_map(|name| Need::from_name(name));
        let unknown = unknown.into_iter().map(String::as_str);
        (known.collect(), unknown.collect())
    }
}

/// A component as it is written. The needs go with the kind, `callback with run, parameters`: an SDK that knows nothing
/// of needs takes that for a kind that it does not know.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Written {
    kind: String,
    name: String,
    doc: String,
    options: Vec<OptionDoc>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    flags: Vec<(String, String)>,
}

const WITH: &str = " with ";
const AND: &str = ", ";

impl From<ComponentDoc> for Written {
    fn from(doc: ComponentDoc) -> Self {
        let kind = match doc.needs.is_empty() {
            true => doc.kind,
            false => format!("{}{WITH}{}", doc.kind, doc.needs.join(AND)),
        };
        Self {
            kind,
            name: doc.name,
            doc: doc.doc,
            options: doc.options,
            flags: doc.flags,
        }
    }
}

impl From<Written> for ComponentDoc {
    fn from(written: Written) -> Self {
        let (kind, needs) = match written.kind.split_once(WITH) {
            Some((kind, needs)) => (kind, needs.split(AND).map(str::to_owned).collect()),
            None => (written.kind.as_str(), Vec::new()),
        };
        Self {
            kind: kind.to_owned(),
            name: written.name,
            doc: written.doc,
            options: written.options,
            needs,
            flags: written.flags,
        }
    }
}

impl From<&Component> for ComponentDoc {
    fn from(component: &Component) -> Self {
        Self {
            kind: component.kind().name().to_owned(),
            name: component.name.to_owned(),
            doc: component.doc.to_owned(),
            options: (component.options)(),
            needs: {
                let needs = (component.needs)().iter();
                needs.map(|need| need.name().to_owned()).collect()
            },
            flags: (component.flags)(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use serde_json::json;

    #[test]
    fn needs_are_written_with_the_kind_which_an_sdk_without_needs_does_not_know() {
        for &kind in Kind::ALL {
            let doc = ComponentDoc {
                kind: kind.name().to_owned(),
                needs: Need::ALL
                    .iter()
                    .map(|need| need.name().to_owned())
                    .collect(),
                ..ComponentDoc::default()
            };
            let written = json!(doc);
            let as_kind = written["kind"].as_str().unwrap();
            assert_eq!(Kind::from_name(as_kind), None, "{as_kind}");
            let read: ComponentDoc = serde_json::from_value(written.clone()).unwrap();
            assert_eq!(read, doc);
            assert_eq!(read.known_needs(), (Need::ALL.to_vec(), Vec::new()));
        }
        let of_later = json!({"kind": "callback with run, telepathy"});
        let read: ComponentDoc = serde_json::from_value(of_later).unwrap();
        assert_eq!(read.known_needs(), (vec![Need::Run], vec!["telepathy"]));
        let plain = json!({"kind": "loss scale", "name": "x", "doc": "", "options": []});
        let read: ComponentDoc = serde_json::from_value(plain.clone()).unwrap();
        assert_eq!((read.kind.as_str(), read.needs.len()), ("loss scale", 0));
        assert_eq!(json!(read), plain);
    }
}
