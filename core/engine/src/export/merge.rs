//! Merges an adapter into its base model, tensor by tensor.

use super::experts::unpack;
use super::writer::{Entry, Extra, size, write_model};
use super::{apart, bytes, read, target};
use crate::setup::base_of;
use anyhow::{Context, Result, ensure};
use apus_components::config::ExportConfig;
use apus_data::hub::Hub;
use apus_model::adapter::Adapter;
use apus_model::families::ModelConfig;
use apus_model::tensors::{FileForm, TensorSpec};
use apus_model::weights::Directory;
use apus_sdk::errln;
use candle_core::DType;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// The source of a tensor of the result.
enum Origin<'a> {
    /// The base's tensor, unchanged.
    Same,
    /// The base's tensor, merged.
    Merged,
    /// Packed experts, unpacked and merged.
    Unpacked(&'a TensorSpec),
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
    let list = config.tensors();
    let can_be_packed = |spec: &&TensorSpec| spec.packed().is_some();
    let touched = list.iter().filter(can_be_packed);
    let touched = touched.filter(|spec| merged.touches(&spec.name));
    let dense = modules(touched);
    let mut entries = Vec::new();
    let mut origins = Vec::new();
    for name in directory.names() {
        let stored = directory.stored(name)?;
        match list.of_file(name) {
            Some((spec, form)) if form != FileForm::Plain && dense.contains(&spec.module()) => {
                // The scales go into the same tensor.
                if form == FileForm::Blocks {
                    entries.push(Entry {
                        name: spec.name.clone(),
                        dtype: Dtype::BF16,
                        shape: spec.shape.clone(),
                    });
                    origins.push(Origin::Unpacked(spec));
                }
            }
            _ => {
                entries.push(Entry {
                    name: name.to_owned(),
                    dtype: stored.dtype(),
                    shape: stored.shape().to_vec(),
                });
                origins.push(match merged.touches(name) {
                    true => Origin::Merged,
                    false => Origin::Same,
                });
            }
        }
    }
    let all_are_dense = dense.len() == modules(list.iter().filter(can_be_packed)).len();
    note_dense(&mut config, &dense, all_are_dense)?;
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
                Origin::Unpacked(spec) => {
                    let dense = unpack(&directory, spec)?;
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

/// The modules of these tensors, each once.
fn modules<'a>(tensors: impl Iterator<Item = &'a TensorSpec>) -> Vec<&'a str> {
    let mut modules: Vec<&str> = tensors.map(TensorSpec::module).collect();
    modules.dedup();
    modules
}

/// Names the modules that are written in BF16 in the configuration, so that transformers does not expect packed ones.
fn note_dense(config: &mut ModelConfig, dense: &[&str], all_are_dense: bool) -> Result<()> {
    if all_are_dense {
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
    list.extend(dense.iter().map(|module| json!(module)));
    Ok(())
}
