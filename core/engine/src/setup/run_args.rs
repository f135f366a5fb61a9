//! Reads the conversation settings of the run that made an adapter or a model from the args.json beside its weights, so
//! that the model is prompted in the way it was trained.
//!
//! Only files that Apus wrote are read. The args.json of ms-swift has the same keys with other meanings: its
//! template never renders the `system` of the file, and its `template_backend` is another choice.

use anyhow::{Context, Result};
use apus_sdk::errln;
use apus_sdk::small_file::{self, Limit};
use serde_json::{Map, Value};
use std::path::Path;

/// The settings of a run; empty if there is no args.json or another program wrote it.
#[derive(Default)]
pub struct RunArgs(Map<String, Value>);

impl RunArgs {
    /// Reads the settings beside the weights in a folder.
    pub fn beside(dir: &Path) -> Result<Self> {
        let path = dir.join("args.json");
        let args = json_object(&path)?;
        if !args.is_empty() && !args.contains_key("apus_version") {
            errln!(
                "note: {}: another program wrote it; how its run rendered conversations is not taken over, give it by \
                 flags such as --system",
                path.display()
            );
            return Ok(Self::default());
        }
        Ok(Self(args))
    }

    /// A setting that is text.
    pub fn text(&self, key: &str) -> Option<String> {
        self.0.get(key).and_then(Value::as_str).map(str::to_owned)
    }

    /// A setting that is true or false.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.0.get(key).and_then(Value::as_bool)
    }

    /// All of them, by flag.
    pub fn all(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The seed, which determines the weights of a synthetic model.
    pub fn seed(&self) -> Option<u64> {
        self.0.get("seed").and_then(Value::as_u64)
    }
}

/// Reads the object in a file; an empty one if there is no file.
pub(super) fn json_object(path: &Path) -> Result<Map<String, Value>> {
    match small_file::text_if_there(path, Limit::STORED)? {
        Some(text) => serde_json::from_str(&text)
            .with_context(|| format!("{}: malformed JSON", path.display())),
        None => Ok(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_another_program_are_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join("args.json"), text).unwrap();
            RunArgs::beside(dir.path())
        };
        let args = r#""system": "S", "keep_thinking": true, "template_backend": "swift""#;
        let ours = read(&format!("{{{args}, \"apus_version\": \"0.1.0\"}}")).unwrap();
        assert_eq!(ours.text("system").as_deref(), Some("S"));
        assert_eq!(ours.flag("keep_thinking"), Some(true));
        let theirs = read(&format!("{{{args}, \"swift_version\": \"4.5.2\"}}")).unwrap();
        assert_eq!(
            (theirs.text("system"), theirs.text("template_backend")),
            (None, None)
        );
        assert!(read("{").is_err());
        let none = RunArgs::beside(&dir.path().join("nowhere")).unwrap();
        assert_eq!(none.text("system"), None);
    }
}
