//! `apus export`: an adapter merged into its base, or experts packed as MXFP4.

pub mod writer;

use crate::adapter::Adapter;
use crate::config::ExportConfig;
use crate::generate::base_of;
use crate::model::Config;
use crate::ops::mxfp4;
use crate::weights::Directory;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use writer::{Entry, Extra, bf16_bytes, size, write_model};

/// Exports; returns the folder that was written.
///
/// # Errors
/// Nothing to do, no base model, tensors that do not fit, or the disk failed.
pub fn run(options: &ExportConfig) -> Result<PathBuf> {
    if let Some(format) = &options.quantize {
        ensure!(format == "mxfp4", "quantize is {format:?}, expected mxfp4");
        ensure!(
            options.adapters.is_empty() && !options.merge_lora,
            "quantize and merge_lora are two steps: merge first, then quantize the result"
        );
        let model = options
            .model
            .as_ref()
            .context("--model is missing: what to quantize")?;
        return quantize(Path::new(model), options);
    }
    ensure!(
        options.merge_lora,
        "nothing to do: give --merge_lora true with --adapters, or --quantize mxfp4 with --model"
    );
    let [adapter] = options.adapters.as_slice() else {
        bail!(
            "--merge_lora needs one --adapters folder, found {}",
            options.adapters.len()
        )
    };
    merge(Path::new(adapter), options)
}

fn target(options: &ExportConfig, from: &Path, suffix: &str) -> PathBuf {
    match &options.output_dir {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(format!(
            "{}{suffix}",
            from.display().to_string().trim_end_matches('/')
        )),
    }
}

/// What a tensor of the result is made of.
enum Origin {
    /// The base's tensor as it is.
    Same,
    /// The base's tensor, merged.
    Merged,
    /// Packed experts, unpacked and merged.
    Unpacked,
}

fn merge(adapter: &Path, options: &ExportConfig) -> Result<PathBuf> {
    let base = match &options.model {
        Some(model) => PathBuf::from(model),
        None => base_of(adapter)?,
    };
    let mut config = Config::read(&base.join("config.json"))?;
    let directory = Directory::open(&base)?;
    let merged = Adapter::open(adapter, &config)?;
    let dense = |layer: usize| {
        ["gate_up_proj", "down_proj"]
            .iter()
            .any(|part| merged.touches(&format!("model.layers.{layer}.mlp.experts.{part}")))
    };
    let mut entries = Vec::new();
    let mut origins = Vec::new();
    for name in directory.names() {
        let (dtype, shape) = directory.view(name, |v| Ok((v.dtype(), v.shape().to_vec())))?;
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
    let layers: Vec<usize> = (0..config.num_hidden_layers)
        .filter(|&l| dense(l))
        .collect();
    note_dense(&mut config, &layers)?;
    let dir = target(options, adapter, "-merged");
    let extra = Extra {
        config: Value::Object(config.raw.clone()),
        copy_from: Some(&base),
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
                Origin::Same => directory.view(&entry.name, |view| Ok(view.data().to_vec())),
                Origin::Merged => {
                    let (dtype, tensor) = directory.view(&entry.name, |view| {
                        let dtype = match view.dtype() {
                            Dtype::F32 => DType::F32,
                            Dtype::BF16 => DType::BF16,
                            other => bail!("type {other:?} cannot be merged"),
                        };
                        let t =
                            Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu);
                        Ok((dtype, t?))
                    })?;
                    bytes(
                        &merged
                            .merged_weight(&entry.name, &tensor)?
                            .unwrap_or(tensor),
                        dtype,
                    )
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

/// Layers whose experts are written in BF16 are named, so that transformers reads them so.
fn note_dense(config: &mut Config, layers: &[usize]) -> Result<()> {
    if layers.len() == config.num_hidden_layers {
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

/// Packed experts as `[E, in, out]` bf16.
fn unpack(directory: &Directory, name: &str) -> Result<Tensor> {
    let read = |suffix: &str| {
        directory.view(&format!("{name}{suffix}"), |view| {
            Ok(Tensor::from_raw_buffer(
                view.data(),
                DType::U8,
                view.shape(),
                &Device::Cpu,
            )?)
        })
    };
    let dense = mxfp4::dequantize(&read("_blocks")?, &read("_scales")?)?;
    Ok(dense.to_dtype(DType::BF16)?.transpose(1, 2)?.contiguous()?)
}

fn bytes(tensor: &Tensor, dtype: DType) -> Result<Vec<u8>> {
    let values = tensor
        .flatten_all()?
        .to_dtype(DType::F32)?
        .to_vec1::<f32>()?;
    Ok(match dtype {
        DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => bf16_bytes(&values),
    })
}

/// Packs dense experts; everything else is written in BF16.
fn quantize(model: &Path, options: &ExportConfig) -> Result<PathBuf> {
    let config = Config::read(&model.join("config.json"))?;
    let directory = Directory::open(model)?;
    let mut entries = Vec::new();
    for name in directory.names() {
        let (dtype, shape) = directory.view(name, |v| Ok((v.dtype(), v.shape().to_vec())))?;
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
    let mut raw = config.raw.clone();
    let published = crate::synthetic::config("gpt-oss-20b")?;
    raw.insert(
        "quantization_config".to_owned(),
        published.raw["quantization_config"].clone(),
    );
    raw.insert("torch_dtype".to_owned(), json!("bfloat16"));
    let dir = target(options, model, "-mxfp4");
    let extra = Extra {
        config: Value::Object(raw),
        copy_from: Some(model),
    };
    let mut scales = Vec::new();
    write_model(
        &dir,
        &entries,
        size(&options.max_shard_size)?,
        options.exist_ok,
        &extra,
        |entry| {
            if entry.name.ends_with("_scales") && !directory.names().any(|name| name == entry.name)
            {
                return Ok(std::mem::take(&mut scales));
            }
            if let Some(plain) = entry.name.strip_suffix("_blocks")
                && directory.names().any(|name| name == plain)
            {
                let dense = read_f32(&directory, plain)?.transpose(1, 2)?.contiguous()?;
                let (blocks, found) = mxfp4::encode(&dense.flatten_all()?.to_vec1::<f32>()?)?;
                scales = found;
                return Ok(blocks);
            }
            if entry.dtype == Dtype::U8 {
                return directory.view(&entry.name, |view| Ok(view.data().to_vec()));
            }
            bytes(&read_f32(&directory, &entry.name)?, DType::BF16)
        },
    )?;
    Ok(dir)
}

fn read_f32(directory: &Directory, name: &str) -> Result<Tensor> {
    directory.view(name, |view| {
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::BF16 => DType::BF16,
            other => bail!("type {other:?}, expected F32 or BF16"),
        };
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
        Ok(tensor.to_dtype(DType::F32)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn golden(path: &str) -> PathBuf {
        Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/goldens/tiny"
        ))
        .join(path)
    }

    fn raw(directory: &Directory) -> BTreeMap<String, Vec<u8>> {
        let names = directory.names().map(str::to_owned).collect::<Vec<_>>();
        let read = |name: String| {
            let bytes = directory
                .view(&name, |view| Ok(view.data().to_vec()))
                .unwrap();
            (name, bytes)
        };
        names.into_iter().map(read).collect()
    }

    #[test]
    fn merging_gives_pefts_bits_and_leaves_the_rest_alone() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("merged");
        let options = ExportConfig {
            model: Some(golden("model_mxfp4").display().to_string()),
            adapters: vec![golden("adapter_grad_attn_experts").display().to_string()],
            merge_lora: true,
            output_dir: Some(out.display().to_string()),
            ..Default::default()
        };
        run(&options).unwrap();
        let merged = raw(&Directory::open(&out).unwrap());
        let base = raw(&Directory::open(&golden("model_mxfp4")).unwrap());
        let expected = golden("merged_attn_experts_touched_bf16.safetensors");
        let expected = candle_core::safetensors::load(expected, &Device::Cpu).unwrap();
        for (name, bytes) in &merged {
            match (expected.get(name), base.get(name)) {
                (Some(tensor), _) if !name.contains(".experts.") => {
                    assert_eq!(bytes, &super::bytes(tensor, DType::BF16).unwrap(), "{name}");
                }
                (_, Some(base)) if !name.contains("self_attn") || name.ends_with("bias") => {
                    assert_eq!(bytes, base, "{name}");
                }
                _ => {}
            }
        }
        assert!(merged.contains_key("model.layers.1.mlp.experts.down_proj"));
        assert!(!merged.contains_key("model.layers.1.mlp.experts.down_proj_blocks"));
        assert!(merged.contains_key("model.layers.0.mlp.experts.down_proj_blocks"));
        let config = std::fs::read_to_string(out.join("config.json")).unwrap();
        assert!(config.contains("model.layers.3.mlp.experts"));
        assert!(out.join("tokenizer.json").is_file());
        assert!(format!("{:#}", run(&options).unwrap_err()).contains("exists already"));
    }

    #[test]
    fn packing_what_was_unpacked_gives_the_same_values() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("packed");
        let options = ExportConfig {
            model: Some(golden("model_bf16").display().to_string()),
            quantize: Some("mxfp4".to_owned()),
            output_dir: Some(out.display().to_string()),
            ..Default::default()
        };
        run(&options).unwrap();
        let packed = Directory::open(&out).unwrap();
        let plain = Directory::open(&golden("model_bf16")).unwrap();
        for layer in 0..4 {
            for part in ["gate_up_proj", "down_proj"] {
                let name = format!("model.layers.{layer}.mlp.experts.{part}");
                let found = bytes(&unpack(&packed, &name).unwrap(), DType::BF16).unwrap();
                let expected = bytes(&read_f32(&plain, &name).unwrap(), DType::BF16).unwrap();
                // Zeros may change their sign.
                let same = found
                    .iter()
                    .zip(&expected)
                    .all(|(a, b)| a == b || (a | 0x80) == (b | 0x80));
                assert!(same, "{name}");
            }
        }
    }
}
