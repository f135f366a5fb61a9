//! `apus export`: merges an adapter into its base model, or packs experts as MXFP4.

mod experts;
mod finite;
mod merge;
mod quantize;
pub mod writer;

use anyhow::{Context, Result, bail, ensure};
use apus_components::config::{ExportConfig, Quantize};
use apus_components::plugin;
use apus_components::registry;
use apus_data::hub::{self, Hub};
use apus_model::weights::StoredTensor;
use apus_sdk::errln;
use candle_core::{DType, Device, Tensor};
use half::bf16;
use safetensors::Dtype;
use std::path::{Path, PathBuf};
use writer::bf16_bytes;

/// Runs the export and returns the folder that was written.
///
/// # Errors
/// Nothing to do, no base model, or tensors of the wrong shape.
pub fn run(options: &ExportConfig) -> Result<PathBuf> {
    registry::load(&options.plugins)?;
    hub::prefer(options.use_hf);
    if let Some(Quantize::Mxfp4) = options.quantize {
        ensure!(
            options.adapters.is_empty() && !options.merge_lora,
            "quantize and merge_lora are two steps: merge first, then quantize the result"
        );
        let model = options
            .model
            .as_ref()
            .context("--model is missing: what to quantize")?;
        let dir = Hub::from_environment().model(model)?;
        // What came from a hub is not written beside its cache, but here.
        let name = match Path::new(model).exists() {
            true => Path::new(model),
            false => Path::new(model.rsplit('/').next().unwrap_or(model)),
        };
        return quantize::quantize(&dir, name, options);
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
    for line in plugin::compare(Path::new(adapter)) {
        errln!("note: {line}");
    }
    merge::merge(Path::new(adapter), options)
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

/// Checks that the result does not replace the model or the adapter that it is made of.
fn apart(dir: &Path, base: &Path) -> Result<()> {
    let same = matches!((dir.canonicalize(), base.canonicalize()), (Ok(a), Ok(b)) if a == b);
    ensure!(
        !same,
        "{}: is the model that is read; choose another --output_dir",
        dir.display()
    );
    Ok(())
}

/// The little-endian bytes of a tensor, converted to this type.
fn bytes(tensor: &Tensor, dtype: DType) -> Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    Ok(match dtype {
        DType::F32 => {
            let values = flat.to_dtype(DType::F32)?.to_vec1::<f32>()?;
            values.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        _ if flat.dtype() == DType::BF16 => {
            let values = flat.to_vec1::<bf16>()?;
            values.iter().flat_map(|v| v.to_le_bytes()).collect()
        }
        _ => bf16_bytes(&flat.to_dtype(DType::F32)?.to_vec1::<f32>()?),
    })
}

/// A floating-point tensor in the representation of its file.
fn read(stored: StoredTensor) -> Result<Tensor> {
    let dtype = float(stored)?;
    let bytes = stored.to_vec()?;
    Ok(Tensor::from_raw_buffer(
        &bytes,
        dtype,
        stored.shape(),
        &Device::Cpu,
    )?)
}

fn float(stored: StoredTensor) -> Result<DType> {
    match stored.dtype() {
        Dtype::F32 => Ok(DType::F32),
        Dtype::BF16 => Ok(DType::BF16),
        other => bail!(
            "{}: type {other:?}, expected F32 or BF16",
            stored.location()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::experts::unpack;
    use super::*;
    use apus_model::families::ModelConfig;
    use apus_model::weights::Directory;
    use std::collections::BTreeMap;

    fn golden(path: &str) -> PathBuf {
        Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/goldens/tiny"
        ))
        .join(path)
    }

    fn raw(directory: &Directory) -> BTreeMap<String, Vec<u8>> {
        let names = directory.names().map(str::to_owned).collect::<Vec<_>>();
        let with_bytes = |name: String| {
            let bytes = directory.stored(&name).unwrap().to_vec().unwrap();
            (name, bytes)
        };
        names.into_iter().map(with_bytes).collect()
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
            quantize: Some(Quantize::Mxfp4),
            output_dir: Some(out.display().to_string()),
            ..Default::default()
        };
        run(&options).unwrap();
        let packed = Directory::open(&out).unwrap();
        let plain = Directory::open(&golden("model_bf16")).unwrap();
        let config = ModelConfig::read(&out.join("config.json")).unwrap();
        let list = config.tensors();
        for layer in 0..4 {
            for part in ["gate_up_proj", "down_proj"] {
                let name = format!("model.layers.{layer}.mlp.experts.{part}");
                let spec = list.get(&name).unwrap();
                let found = bytes(&unpack(&packed, spec).unwrap(), DType::BF16).unwrap();
                let expected =
                    bytes(&read(plain.stored(&name).unwrap()).unwrap(), DType::BF16).unwrap();
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
