//! Packs dense experts as MXFP4.

use super::experts::pack;
use super::writer::{Entry, Extra, size, write_model};
use super::{apart, bytes, read, target};
use anyhow::{Context, Result, ensure};
use apus_components::config::ExportConfig;
use apus_model::families::ModelConfig;
use apus_model::tensors::FileForm;
use apus_model::weights::{Directory, WeightSource};
use candle_core::DType;
use safetensors::Dtype;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Packs the dense experts of the model in a directory and writes everything else in BF16. The result is named after the
/// directory.
pub(super) fn quantize(model: &Path, name: &Path, options: &ExportConfig) -> Result<PathBuf> {
    let config = ModelConfig::read(&model.join("config.json"))?;
    let directory = Directory::open(model)?;
    let dir = target(options, name, "-mxfp4");
    apart(&dir, model)?;
    let list = config.tensors();
    let mut entries = Vec::new();
    let mut found = false;
    for name in directory.names() {
        let stored = directory.stored(name)?;
        let spec = list.get(name);
        match spec.and_then(|spec| Some((spec.dims()?, spec.packed()?))) {
            Some(((inputs, _), packed)) => {
                ensure!(
                    inputs.is_multiple_of(32),
                    "{name}: {inputs} inputs are no multiple of 32"
                );
                found = true;
                entries.extend(packed.map(|tensor| Entry {
                    name: tensor.name,
                    dtype: Dtype::U8,
                    shape: tensor.shape,
                }));
            }
            None => entries.push(Entry {
                name: name.to_owned(),
                dtype: match stored.dtype() {
                    Dtype::U8 => Dtype::U8,
                    _ => Dtype::BF16,
                },
                shape: stored.shape().to_vec(),
            }),
        }
    }
    ensure!(found, "{}: has no BF16 experts to pack", model.display());
    let mut raw = config.raw.clone();
    let quantization = config.family.quantization;
    let quantization = quantization.context("config.json has no words for packed weights")?;
    raw.insert("quantization_config".to_owned(), quantization());
    let key = if raw.contains_key("dtype") {
        "dtype"
    } else {
        "torch_dtype"
    };
    raw.insert(key.to_owned(), json!("bfloat16"));
    let extra = Extra {
        config: Value::Object(raw),
        generation: None,
        copy_from: Some(model),
        made_by: Some(model),
    };
    let mut scales = Vec::new();
    write_model(
        &dir,
        &entries,
        size(&options.max_shard_size)?,
        options.exist_ok,
        &extra,
        |entry| {
            let packed_now = list.of_file(&entry.name);
            let packed_now = packed_now.filter(|(spec, _)| directory.contains(&spec.name));
            match packed_now {
                Some((spec, FileForm::Blocks)) => {
                    let (blocks, found) = pack(&directory, &spec.name)?;
                    scales = found;
                    return Ok(blocks);
                }
                Some((_, FileForm::Scales)) => return Ok(std::mem::take(&mut scales)),
                _ => {}
            }
            if entry.dtype == Dtype::U8 {
                return directory.stored(&entry.name)?.to_vec();
            }
            bytes(&read(directory.stored(&entry.name)?)?, DType::BF16)
        },
    )?;
    Ok(dir)
}
