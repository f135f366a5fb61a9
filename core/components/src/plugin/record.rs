//! The record of a run's plugins in args.json and in every checkpoint, and its comparison with the plugins that are
//! loaded now.

use super::{Plugin, loaded};
use apus_sdk::small_file::{self, Limit};
use serde_json::{Value, json};
use std::path::Path;

/// One record for each loaded plugin: path, name, version, SDK, hash, prefix, components.
pub fn records() -> Vec<Value> {
    loaded().into_iter().map(record).collect()
}

fn record(plugin: &Plugin) -> Value {
    let description = plugin.description();
    let components: Vec<String> = description
        .components
        .iter()
        .map(|component| format!("{} {}{}", component.kind, plugin.prefix, component.name))
        .collect();
    json!({
        "path": plugin.canonical,
        "name": description.name,
        "version": description.version,
        "sdk": description.sdk,
        "sha256": plugin.sha256,
        "prefix": plugin.prefix,
        "components": components,
    })
}

/// A line for each plugin in the args.json of a checkpoint that is not loaded now, or that is another build now.
pub fn compare(checkpoint: &Path) -> Vec<String> {
    let text = small_file::text(&checkpoint.join("args.json"), Limit::STORED).unwrap_or_default();
    let args: Value = serde_json::from_str(&text).unwrap_or_default();
    let Some(saved) = args.get("plugins").and_then(Value::as_array) else {
        return Vec::new();
    };
    let now = records();
    saved
        .iter()
        .filter_map(|saved| difference(saved, &now))
        .collect()
}

fn difference(saved: &Value, now: &[Value]) -> Option<String> {
    let text = |record: &Value, key: &str| record[key].as_str().unwrap_or("?").to_owned();
    let of = |key: &str| text(saved, key);
    let what = format!(
        "the run was made with plugin {} {} ({}, sha256 {}...)",
        of("name"),
        of("version"),
        of("path"),
        of("sha256").chars().take(12).collect::<String>()
    );
    let Some(found) = now.iter().find(|record| record["name"] == saved["name"]) else {
        return Some(format!(
            "{what}, which is not loaded; give it with --plugin if something of it is needed here"
        ));
    };
    if found["sha256"] == saved["sha256"] {
        return None;
    }
    let (version, path) = (text(found, "version"), text(found, "path"));
    Some(match found["version"] == saved["version"] {
        true => format!("{what}; the file loaded now, {path}, is another build of that version"),
        false => format!("{what}; loaded now is version {version} ({path})"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told() {
        let record = |version: &str, sha256: &str| json!({"name": "mine", "version": version, "path": "/a/libmine.so", "sha256": sha256});
        let saved = record("0.1.0", "aaaaaaaaaaaaaaaa");
        assert_eq!(difference(&saved, std::slice::from_ref(&saved)), None);
        let said = difference(&saved, &[]).unwrap();
        assert!(
            said.contains("plugin mine 0.1.0") && said.contains("not loaded"),
            "{said}"
        );
        let said = difference(&saved, &[record("0.1.0", "b")]).unwrap();
        assert!(said.contains("another build"), "{said}");
        let said = difference(&saved, &[record("0.2.0", "b")]).unwrap();
        assert!(said.contains("version 0.2.0"), "{said}");
    }
}
