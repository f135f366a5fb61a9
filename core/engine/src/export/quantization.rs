//! What config.json says of packed weights.
//!
//! transformers packs a module unless a pattern of `modules_to_not_convert` matches the beginning of its name. On a card it also gives
//! an MLP that no pattern matches the forward pass of packed experts. So of a layer whose experts are in BF16, experts and MLP are
//! both named. vLLM does not read the list: it loads models whose experts are all packed, or all in BF16.

use anyhow::{Context, Result};
use apus_model::families::ModelConfig;
use serde_json::{Value, json};

/// Says which of the modules of experts are in BF16.
///
/// # Errors
/// The family has no packed weights, or config.json is malformed there.
pub fn describe(config: &mut ModelConfig, dense: &[&str], all_are_dense: bool) -> Result<()> {
    let key = "quantization_config";
    if all_are_dense {
        config.raw.shift_remove(key);
        return Ok(());
    }
    let quantization = config.family.quantization;
    let plain = quantization.context("config.json has no words for packed weights")?();
    if dense.is_empty() {
        config.raw.insert(key.to_owned(), plain);
        return Ok(());
    }
    let list = config
        .raw
        .entry(key)
        .or_insert(plain)
        .as_object_mut()
        .context("quantization_config is no object")?
        .entry("modules_to_not_convert")
        .or_insert_with(|| json!([]));
    let list = list
        .as_array_mut()
        .context("modules_to_not_convert is no list")?;
    for module in dense {
        let mlp = module.strip_suffix(".experts");
        for name in [Some(*module), mlp].into_iter().flatten() {
            if !list.iter().any(|there| there == name) {
                list.push(Value::from(name));
            }
        }
    }
    Ok(())
}
