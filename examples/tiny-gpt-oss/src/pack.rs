//! The trained f32 weights as the published models have them: experts in MXFP4, the rest in BF16.

use std::path::Path;

use anyhow::{Context, Result};
use apus_engine::export::writer::{Entry, Extra, bf16_bytes, write_model};
use apus_model::ops::mxfp4;
use candle_core::{Device, Tensor, safetensors as files};
use safetensors::Dtype;
use serde_json::{Value, json};

/// Writes the model folder `to` from the checkpoint folder `from`, replacing it.
///
/// Fails if a file is missing or malformed, or the disk refuses.
pub fn pack(from: &Path, to: &Path) -> Result<()> {
    let weights = from.join("model.safetensors");
    let tensors = files::load(&weights, &Device::Cpu)
        .with_context(|| format!("cannot read {}", weights.display()))?;
    let mut names: Vec<&String> = tensors.keys().collect();
    names.sort();
    let mut packed: Vec<(Entry, Vec<u8>)> = Vec::new();
    for name in names {
        let tensor = &tensors[name];
        if name.ends_with("mlp.experts.gate_up_proj") || name.ends_with("mlp.experts.down_proj") {
            // Stored as [experts, inputs, outputs]; blocks run along the inputs of an output row.
            let (blocks, scales) = mxfp4::quantize(&tensor.transpose(1, 2)?.contiguous()?)?;
            packed.push(bytes(&format!("{name}_blocks"), &blocks)?);
            packed.push(bytes(&format!("{name}_scales"), &scales)?);
        } else {
            let entry = Entry {
                name: name.clone(),
                dtype: Dtype::BF16,
                shape: tensor.dims().to_vec(),
            };
            packed.push((entry, bf16_bytes(&tensor.flatten_all()?.to_vec1::<f32>()?)));
        }
    }
    let path = from.join("config.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut config: Value =
        serde_json::from_str(&text).with_context(|| format!("malformed {}", path.display()))?;
    config["torch_dtype"] = json!("bfloat16");
    config["quantization_config"] = json!({
        "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
        ],
        "quant_method": "mxfp4",
    });
    let (entries, mut data): (Vec<Entry>, Vec<Vec<u8>>) = packed.into_iter().unzip();
    let mut next = data.drain(..);
    let extra = Extra {
        config,
        generation: None,
        copy_from: Some(from),
        made_by: None,
    };
    write_model(to, &entries, usize::MAX, true, &extra, |_| {
        Ok(next.next().unwrap_or_default())
    })
}

fn bytes(name: &str, tensor: &Tensor) -> Result<(Entry, Vec<u8>)> {
    let entry = Entry {
        name: name.to_owned(),
        dtype: Dtype::U8,
        shape: tensor.dims().to_vec(),
    };
    Ok((entry, tensor.flatten_all()?.to_vec1::<u8>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use std::collections::HashMap;

    #[test]
    fn experts_come_back_close_and_the_right_way_round() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::write(from.join("config.json"), "{}").unwrap();
        let name = "model.layers.0.mlp.experts.down_proj";
        let values = Random::new(7).normals(2 * 64 * 32, 0.1);
        let tensor = Tensor::from_vec(values, (2, 64, 32), &Device::Cpu).unwrap();
        let norm = Tensor::ones(32, candle_core::DType::F32, &Device::Cpu).unwrap();
        let tensors = HashMap::from([(name, tensor.clone()), ("model.norm.weight", norm)]);
        files::save(&tensors, from.join("model.safetensors")).unwrap();
        pack(&from, &to).unwrap();
        let found = files::load(to.join("model.safetensors"), &Device::Cpu).unwrap();
        let (blocks, scales) = (
            &found[&format!("{name}_blocks")],
            &found[&format!("{name}_scales")],
        );
        let restored = mxfp4::dequantize(blocks, scales)
            .unwrap()
            .transpose(1, 2)
            .unwrap();
        let scalar = |t: Tensor| t.sum_all().unwrap().to_scalar::<f32>().unwrap();
        let error = scalar((&restored - &tensor).unwrap().sqr().unwrap());
        let size = scalar(tensor.sqr().unwrap());
        assert!(error < 0.02 * size, "{error} of {size}");
    }
}
