//! The base model of an adapter.

use super::run_args::json_object;
use anyhow::{Result, bail, ensure};
use apus_data::hub;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The base model that an adapter folder names, in args.json or adapter_config.json: a directory, or an id,
/// which is looked up where the run did.
///
/// # Errors
/// Neither names one that can exist.
pub fn base_of(adapter: &Path) -> Result<PathBuf> {
    ensure!(
        adapter.is_dir(),
        "{}: there is no such adapter, expected a folder with adapter_config.json (an adapter on a hub has to be \
         downloaded first)",
        adapter.display()
    );
    let named = [
        ("args.json", "model"),
        ("adapter_config.json", "base_model_name_or_path"),
    ];
    let mut missing = None;
    for (file, key) in named {
        let json = json_object(&adapter.join(file))?;
        let Some(name) = json.get(key).and_then(Value::as_str) else {
            continue;
        };
        if name.starts_with("synthetic:") || Path::new(name).is_dir() {
            return Ok(PathBuf::from(name));
        }
        if file == "args.json" {
            hub::prefer(json.get("use_hf").and_then(Value::as_bool));
        }
        missing.get_or_insert_with(|| name.to_owned());
    }
    match missing {
        Some(name) if hub::is_id(&name) => Ok(PathBuf::from(name)),
        Some(name) => bail!(
            "{}: its base model {name:?} is not there; give it with --model",
            adapter.display()
        ),
        None => bail!(
            "{}: names no base model; give it with --model",
            adapter.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_of_an_adapter() {
        let dir = tempfile::tempdir().unwrap();
        let error = |dir: &Path| format!("{:#}", base_of(dir).unwrap_err());
        assert!(error(dir.path()).contains("names no base model"));
        let config = dir.path().join("adapter_config.json");
        std::fs::write(&config, r#"{"base_model_name_or_path": "/no/where"}"#).unwrap();
        assert!(error(dir.path()).contains("/no/where"));
        let args = dir.path().join("args.json");
        std::fs::write(&args, r#"{"model": "synthetic:gpt-oss-20b", "seed": 7}"#).unwrap();
        assert_eq!(
            base_of(dir.path()).unwrap(),
            Path::new("synthetic:gpt-oss-20b")
        );
        std::fs::write(&args, "{").unwrap();
        assert!(error(dir.path()).contains("args.json"));
    }
}
