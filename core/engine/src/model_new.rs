//! `apus model new`: writes a checkpoint of random weights.

use crate::export::writer::{Entry, Extra, size, write_model};
use anyhow::{Context, Result, ensure};
use apus_components::config::ModelNewConfig;
use apus_data::hub::Hub;
use apus_model::families::ModelConfig;
use apus_model::ops::fill;
use apus_model::synthetic::{SyntheticWeights, config, generation, set_format, stream};
use apus_model::weights::WeightSource;
use candle_core::{DType, Device};
use safetensors::Dtype;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Writes the checkpoint and returns its folder.
pub fn model_new(options: &ModelNewConfig) -> Result<PathBuf> {
    let mut config = config(&options.arch)?;
    set_format(&mut config, &options.format)?;
    let dir = PathBuf::from(
        options
            .output_dir
            .as_ref()
            .context("--out is missing: the folder to write")?,
    );
    let source = SyntheticWeights::new(&config, options.seed);
    let entries = entries(&config, &source);
    let tokenizer = match &options.tokenizer {
        Some(word) => Some(Hub::from_environment().tokenizer(Path::new(word))?),
        None => None,
    };
    if let Some(dir) = &tokenizer {
        ensure!(
            dir.join("tokenizer.json").is_file(),
            "tokenizer {}: holds no tokenizer.json",
            dir.display()
        );
    }
    let extra = Extra {
        config: Value::Object(config.raw.clone()),
        generation: Some(generation(&config)),
        copy_from: tokenizer.as_deref(),
        made_by: None,
    };
    write_model(&dir, &entries, size("5GB")?, false, &extra, |entry| {
        if entry.dtype == Dtype::U8 {
            let tensor = source.tensor(&entry.name, &entry.shape, DType::U8, &Device::Cpu)?;
            return Ok(tensor.flatten_all()?.to_vec1::<u8>()?);
        }
        if entry.name.contains("norm") {
            return Ok([0x80, 0x3f].repeat(entry.elements()));
        }
        let key = (options.seed, stream(&entry.name));
        let std = source.std(&entry.name, &entry.shape);
        let values = fill::normal_f32(entry.elements(), key.0, key.1, std);
        Ok(crate::export::writer::bf16_bytes(&values))
    })?;
    Ok(dir)
}

/// All tensors of a model, in the order of its layers.
fn entries(config: &ModelConfig, source: &SyntheticWeights) -> Vec<Entry> {
    let h = config.architecture.hidden_size;
    let layer = &config.architecture.layers[0];
    let f = layer.mlp.intermediate_size();
    let e = layer.mlp.mixture().map_or(0, |mixture| mixture.experts);
    let (q, kv) = (layer.attention.width(), layer.attention.kv_width());
    let mut entries = Vec::new();
    let mut push = |name: String, dtype: Dtype, shape: &[usize]| {
        entries.push(Entry {
            name,
            dtype,
            shape: shape.to_vec(),
        });
    };
    push(
        "model.embed_tokens.weight".to_owned(),
        Dtype::BF16,
        &[config.architecture.vocab_size, h],
    );
    for index in 0..config.architecture.layers.len() {
        let path = format!("model.layers.{index}");
        push(format!("{path}.input_layernorm.weight"), Dtype::BF16, &[h]);
        for (name, outputs, inputs) in [
            ("q_proj", q, h),
            ("k_proj", kv, h),
            ("v_proj", kv, h),
            ("o_proj", h, q),
        ] {
            push(
                format!("{path}.self_attn.{name}.weight"),
                Dtype::BF16,
                &[outputs, inputs],
            );
            push(
                format!("{path}.self_attn.{name}.bias"),
                Dtype::BF16,
                &[outputs],
            );
        }
        push(
            format!("{path}.self_attn.sinks"),
            Dtype::BF16,
            &[layer.attention.heads.q],
        );
        push(
            format!("{path}.post_attention_layernorm.weight"),
            Dtype::BF16,
            &[h],
        );
        push(format!("{path}.mlp.router.weight"), Dtype::BF16, &[e, h]);
        push(format!("{path}.mlp.router.bias"), Dtype::BF16, &[e]);
        for (name, inputs, outputs) in [("gate_up_proj", h, 2 * f), ("down_proj", f, h)] {
            push(
                format!("{path}.mlp.experts.{name}_bias"),
                Dtype::BF16,
                &[e, outputs],
            );
            let matrix = format!("{path}.mlp.experts.{name}");
            if source.packed {
                push(
                    format!("{matrix}_blocks"),
                    Dtype::U8,
                    &[e, outputs, inputs / 32, 16],
                );
                push(
                    format!("{matrix}_scales"),
                    Dtype::U8,
                    &[e, outputs, inputs / 32],
                );
            } else {
                push(matrix, Dtype::BF16, &[e, inputs, outputs]);
            }
        }
    }
    push("model.norm.weight".to_owned(), Dtype::BF16, &[h]);
    push(
        "lm_head.weight".to_owned(),
        Dtype::BF16,
        &[config.architecture.vocab_size, h],
    );
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_model::weights::Directory;

    #[test]
    fn a_written_model_holds_the_numbers_of_the_one_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let arch = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/goldens/tiny/model_mxfp4/config.json"
        );
        for format in ["mxfp4", "bf16"] {
            let out = dir.path().join(format);
            let options = ModelNewConfig {
                arch: arch.to_owned(),
                format: format.to_owned(),
                seed: 7,
                tokenizer: None,
                output_dir: Some(out.display().to_string()),
            };
            model_new(&options).unwrap();
            let config = ModelConfig::read(&out.join("config.json")).unwrap();
            let source = SyntheticWeights::new(&config, 7);
            let written = Directory::open(&out).unwrap();
            assert_eq!(source.packed, format == "mxfp4");
            for entry in entries(&config, &source) {
                let dtype = if entry.dtype == Dtype::U8 {
                    DType::U8
                } else {
                    DType::F32
                };
                let read = |source: &dyn WeightSource| {
                    let t = source
                        .tensor(&entry.name, &entry.shape, dtype, &Device::Cpu)
                        .unwrap();
                    t.flatten_all()
                        .unwrap()
                        .to_dtype(DType::F32)
                        .unwrap()
                        .to_vec1::<f32>()
                        .unwrap()
                };
                assert_eq!(read(&source), read(&written), "{}", entry.name);
            }
        }
    }
}
