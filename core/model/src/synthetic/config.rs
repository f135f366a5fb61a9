//! Configurations of synthetic models.

use super::presets;
use crate::families::ModelConfig;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The configuration of a preset or of a config.json, with changes behind a question mark:
/// `NAME?format=bf16&num_hidden_layers=4`.
///
/// # Errors
/// There is no such preset, the file is of no family, or a change is not of a number in it.
pub fn config(arch: &str) -> Result<ModelConfig> {
    let (name, changes) = arch.split_once('?').unwrap_or((arch, ""));
    let mut config = match presets::find(name) {
        Some(preset) => ModelConfig::parse((preset.config)())?,
        None if name.ends_with(".json") => ModelConfig::read(Path::new(name))?,
        None => bail!(
            "{name:?} is not {} or the path of a config.json",
            presets::names().join(", ")
        ),
    };
    if changes.is_empty() {
        return Ok(config);
    }
    for change in changes.split('&') {
        let (key, value) = change
            .split_once('=')
            .with_context(|| format!("{change:?} in {arch:?}: expected key=value"))?;
        if key == "format" {
            set_format(&mut config, value)?;
            continue;
        }
        let number: u64 = value
            .parse()
            .with_context(|| format!("{change:?} in {arch:?}: expected a number"))?;
        ensure!(
            config.raw.get(key).is_some_and(Value::is_u64),
            "{key:?} in {arch:?} is no number of config.json; for example num_hidden_layers=4, format=bf16"
        );
        config.raw.insert(key.to_owned(), number.into());
        if key == "num_hidden_layers" {
            config.raw.shift_remove("layer_types");
        }
    }
    ModelConfig::parse(Value::Object(config.raw)).with_context(|| arch.to_owned())
}

/// Makes the weights of a configuration that can be packed so (`mxfp4`), or plain (`bf16`).
pub fn set_format(config: &mut ModelConfig, format: &str) -> Result<()> {
    let packed = config.raw.contains_key("quantization_config");
    match (format, packed) {
        ("mxfp4", false) => {
            if let Some(quantization) = config.family.quantization {
                let key = "quantization_config".to_owned();
                config.raw.insert(key, quantization());
            }
        }
        ("bf16", true) => {
            config.raw.shift_remove("quantization_config");
        }
        ("mxfp4" | "bf16", _) => {}
        (other, _) => bail!("format is {other:?}, expected mxfp4 or bf16"),
    }
    Ok(())
}

/// generation_config.json with the special tokens of a configuration, in the style of the published models.
pub fn generation(config: &ModelConfig) -> Value {
    let id = |key: &str| config.raw.get(key).and_then(Value::as_u64);
    let mut raw = Map::new();
    if let Some(bos) = presets::bos_token_id(config) {
        raw.insert("bos_token_id".to_owned(), bos.into());
    }
    raw.insert("do_sample".to_owned(), true.into());
    let ends: Vec<u64> = ["eos_token_id", "pad_token_id"]
        .iter()
        .filter_map(|key| id(key))
        .collect();
    raw.insert("eos_token_id".to_owned(), json!(ends));
    if let Some(pad) = id("pad_token_id") {
        raw.insert("pad_token_id".to_owned(), pad.into());
    }
    Value::Object(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::SyntheticWeights;

    #[test]
    fn published_shapes_count_their_parameters() {
        let config = config("gpt-oss-20b").unwrap();
        let c = config.architecture;
        let mixture = c.layers[0].mlp.mixture().unwrap();
        let matrices = 3 * c.hidden_size * mixture.intermediate_size;
        let experts = c.layers.len() * mixture.experts * matrices;
        assert_eq!(experts, 19_110_297_600);
        assert!(super::config("gpt-oss-7b").is_err());
    }

    #[test]
    fn changes_behind_a_question_mark() {
        let small = config("gpt-oss-20b?format=bf16&num_hidden_layers=3").unwrap();
        let layers = small.architecture.layers.iter();
        let sliding: Vec<bool> = layers.map(|l| l.attention.window.is_some()).collect();
        assert_eq!(sliding, [true, false, true]);
        assert!(!SyntheticWeights::new(&small, 1).packed);
        for (arch, problem) in [
            ("gpt-oss-20b?layers=3", "num_hidden_layers=4"),
            ("gpt-oss-20b?format=int4", "mxfp4 or bf16"),
            ("gpt-oss-20b?head_dim", "key=value"),
        ] {
            let error = format!("{:#}", config(arch).unwrap_err());
            assert!(error.contains(problem), "{error}");
        }
        let json = generation(&small);
        assert_eq!(json["eos_token_id"], json!([200_002, 199_999]));
    }
}
