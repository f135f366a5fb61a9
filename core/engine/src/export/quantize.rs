//! Packs dense experts as MXFP4.

use super::experts::pack;
use super::writer::{Entry, Extra, size, write_model};
use super::{apart, bytes, read, target};
use anyhow::{Result, ensure};
use apus_components::config::ExportConfig;
use apus_model::families::ModelConfig;
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
    let mut entries = Vec::new();
    for name in directory.names() {
        let stored = directory.stored(name)?;
        let (dtype, shape) = (stored.dtype(), stored.shape().to_vec());
        let experts =
            name.ends_with(".experts.gate_up_proj") || name.ends_with(".experts.down_proj");
        match (experts, shape.as_slice()) {
            (true, &[e, i, o]) => {
                ensure!(
                    i.is_multiple_of(32),
                    "{name}: {i} inputs are no multiple of 32"
                );
                let entry = |suffix: &str, shape: Vec<usize>| Entry {
                    name: format!("{name}{suffix}"),
                    dtype: Dtype::U8,
                    shape,
                };
                entries.push(entry("_blocks", vec![e, o, i / 32, 16]));
                entries.push(entry("_scales", vec![e, o, i / 32]));
            }
            _ => {
                let dtype = if dtype == Dtype::U8 {
                    dtype
                } else {
                    Dtype::BF16
                };
                entries.push(Entry {
                    name: name.to_owned(),
                    dtype,
                    shape,
                });
            }
        }
    }
    ensure!(
        entries
            .iter()
            .any(|entry| entry.name.ends_with("_blocks") && !directory.contains(&entry.name)),
        "{}: has no BF16 experts to pack",
        model.display()
    );
    let mut raw = config.raw.clone();
    let published = apus_model::synthetic::config("gpt-oss-20b")?;
    raw.insert(
        "quantization_config".to_owned(),
        published.raw["quantization_config"].clone(),
    );
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
            if entry.name.ends_with("_scales") && !directory.contains(&entry.name) {
                return Ok(std::mem::take(&mut scales));
            }
            if let Some(plain) = entry.name.strip_suffix("_blocks")
                && directory.contains(plain)
            {
                let (blocks, found) = pack(&directory, plain)?;
                scales = found;
                return Ok(blocks);
            }
            if entry.dtype == Dtype::U8 {
                return directory.stored(&entry.name)?.to_vec();
            }
            bytes(&read(directory.stored(&entry.name)?)?, DType::BF16)
        },
    )?;
    Ok(dir)
}
