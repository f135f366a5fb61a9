//! Merges an adapter into its base model, tensor by tensor.

use super::experts::unpack;
use super::writer::{Entry, Extra, size, write_model};
use super::{apart, bytes, read, target};
use crate::setup::base_of;
use anyhow::{Context, Result, bail, ensure};
use apus_components::config::ExportConfig;
use apus_data::hub::Hub;
use apus_model::adapter::Adapter;
use apus_model::families::ModelConfig;
use apus_model::weights::Directory;
use apus_sdk::errln;
use candle_core::DType;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The source of a tensor of the result.
enum Origin {
    /// The base's tensor, unchanged.
    Same,
    /// The base's tensor, merged.
    Merged,
    /// Packed experts, unpacked and merged.
    Unpacked,
}

/// Writes the merged model. Layers whose experts carry an adapter are written in BF16, all other packed
/// experts are copied bit for bit.
pub(super) fn merge(adapter: &Path, options: &ExportConfig) -> Result<PathBuf> {
    let base = match &options.model {
        Some(model) => PathBuf::from(model),
        None => base_of(adapter)?,
    };
    ensure!(
        !base.display().to_string().starts_with("synthetic:"),
        "the base model {} is in memory only; write it with `apus model new` and give that folder with --model",
        base.display()
    );
    let base = Hub::from_environment()
        .model(&base.display().to_string())
        .with_context(|| {
            format!(
                "base model of {} (--model gives another)",
                adapter.display()
            )
        })?;
    let mut config = ModelConfig::read(&base.join("config.json"))?;
    let directory = Directory::open(&base)?;
    let dir = target(options, adapter, "-merged");
    apart(&dir, &base)?;
    let merged = Adapter::open(adapter, &config)?;
    for note in &merged.notes {
        errln!("note: {note}");
    }
    let dense = |layer: usize| {
        ["gate_up_proj", "down_proj"]
            .iter()
            .any(|part| merged.touches(&format!("model.layers.{layer}.mlp.experts.{part}")))
    };
    let mut entries = Vec::new();
    let mut origins = Vec::new();
    for name in directory.names() {
        let stored = directory.stored(name)?;
        let (dtype, shape) = (stored.dtype(), stored.shape().to_vec());
        let packed = name.strip_suffix("_blocks");
        let scales = name.ends_with("_scales");
        let unpack = layer_of(name).is_some_and(dense) && (packed.is_some() || scales);
        match (unpack, packed) {
            (true, None) => {}
            (true, Some(plain)) => {
                let [e, o, g, _] = shape[..] else {
                    bail!("{name}: shape {shape:?}")
                };
                let shape = vec![e, g * 32, o];
                entries.push(Entry {
                    name: plain.to_owned(),
                    dtype: Dtype::BF16,
                    shape,
                });
                origins.push(Origin::Unpacked);
            }
            (false, _) => {
                let origin = if merged.touches(name) {
                    Origin::Merged
                } else {
                    Origin::Same
                };
                entries.push(Entry {
                    name: name.to_owned(),
                    dtype,
                    shape,
                });
                origins.push(origin);
            }
        }
    }
    let layers: Vec<usize> = (0..config.architecture.layers.len())
        .filter(|&l| dense(l))
        .collect();
    note_dense(&mut config, &layers)?;
    let extra = Extra {
        config: Value::Object(config.raw.clone()),
        generation: None,
        copy_from: Some(&base),
        made_by: Some(adapter),
    };
    let mut at = 0;
    write_model(
        &dir,
        &entries,
        size(&options.max_shard_size)?,
        options.exist_ok,
        &extra,
        |entry| {
            at += 1;
            match origins[at - 1] {
                Origin::Same => directory.stored(&entry.name)?.to_vec(),
                Origin::Merged => {
                    let tensor = read(directory.stored(&entry.name)?)?;
                    let dtype = tensor.dtype();
                    let merged = merged.merged_weight(&entry.name, &tensor)?;
                    bytes(&merged.unwrap_or(tensor), dtype)
                }
                Origin::Unpacked => {
                    let dense = unpack(&directory, &entry.name)?;
                    bytes(
                        &merged.merged_weight(&entry.name, &dense)?.unwrap_or(dense),
                        DType::BF16,
                    )
                }
            }
        },
    )?;
    Ok(dir)
}

/// Names the layers whose experts are written in BF16 in the configuration, so that transformers does not expect packed
/// ones.
fn note_dense(config: &mut ModelConfig, layers: &[usize]) -> Result<()> {
    if layers.len() == config.architecture.layers.len() {
        config.raw.shift_remove("quantization_config");
        return Ok(());
    }
    let Some(quantization) = config.raw.get_mut("quantization_config") else {
        return Ok(());
    };
    let list = quantization
        .as_object_mut()
        .context("quantization_config is no object")?
        .entry("modules_to_not_convert")
        .or_insert_with(|| json!([]));
    let list = list
        .as_array_mut()
        .context("modules_to_not_convert is no list")?;
    list.extend(
        layers
            .iter()
            .map(|layer| json!(format!("model.layers.{layer}.mlp.experts"))),
    );
    Ok(())
}

fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?
        .split('.')
        .next()?
        .parse()
        .ok()
}
