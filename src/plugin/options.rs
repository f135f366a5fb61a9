//! Options of the components that `apus plugin check` makes.

use anyhow::{Context, Result, bail};
use apus_components::registry::Entry;
use apus_sdk::Options;
use serde_json::Value;
use std::collections::BTreeMap;

/// Options by the name of a component, or by its kind and name.
pub struct OptionsByName(BTreeMap<String, Options>);

impl OptionsByName {
    /// Reads JSON.
    ///
    /// # Errors
    /// It is not an object of objects.
    pub fn read(json: &str) -> Result<Self> {
        let expected =
            "--options: expected an object of objects of options, {\"NAME\": {\"OPTION\": VALUE}}";
        let all: BTreeMap<String, Value> = serde_json::from_str(json).context(expected)?;
        let mut read = BTreeMap::new();
        for (name, options) in all {
            match options {
                Value::Object(options) => read.insert(name, options),
                other => bail!("{expected}, found {other} for {name}"),
            };
        }
        Ok(Self(read))
    }

    /// Checks that each name is that of one component.
    ///
    /// # Errors
    /// A name that none of them has, or several; the error lists them.
    pub fn check(&self, all: &[Entry]) -> Result<()> {
        for name in self.0.keys() {
            let is_it = |entry: &&Entry| *name == entry.name || *name == whole(entry);
            let found: Vec<String> = all.iter().filter(is_it).map(whole).collect();
            match found.as_slice() {
                [_] => {}
                [] => {
                    let all: Vec<String> = all.iter().map(whole).collect();
                    bail!(
                        "--options: there is no component {name}; there are {}",
                        all.join(", ")
                    );
                }
                several => bail!(
                    "--options: {name} is the name of {}; give its kind too",
                    several.join(" and ")
                ),
            }
        }
        Ok(())
    }

    /// Those of a component.
    pub fn of(&self, entry: &Entry) -> Options {
        let given = self
            .0
            .get(&whole(entry))
            .or_else(|| self.0.get(&entry.name));
        given.cloned().unwrap_or_default()
    }
}

/// `loss focal`.
fn whole(entry: &Entry) -> String {
    format!("{} {}", entry.doc.kind, entry.name)
}
