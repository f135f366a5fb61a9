//! Random weights in the shape of gpt-oss: in memory (`--model synthetic:gpt-oss-20b`) or as a
//! checkpoint (`apus model new`), the same numbers either way and on every device.
//!
//! Activations stay sane through all layers by the usual rule: matrices that read the residual stream
//! have standard deviation `1 / sqrt(inputs)`, those that write to it are smaller by `sqrt(2 * layers)`;
//! embeddings have deviation 1, norms are 1. MXFP4 experts get random nibbles under the power of two
//! nearest to that deviation. So the residual stream starts at rms 1 and stays below 4 to the last layer,
//! and router logits have deviation 1, which gives every expert its share of tokens.

use crate::families::ModelConfig;
use crate::ops::fill;
use crate::weights::WeightSource;
use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The standard deviation of a uniformly random E2M1 value.
const NIBBLE_STD: f64 = 2.926;

/// The configuration of `gpt-oss-20b`, `gpt-oss-120b`, or of a config.json; with changes behind a
/// question mark: `gpt-oss-20b?format=bf16&num_hidden_layers=4`.
///
/// # Errors
/// The name is another one, the file is no gpt-oss configuration, or a change is not of a number in it.
pub fn config(arch: &str) -> Result<ModelConfig> {
    let (name, changes) = arch.split_once('?').unwrap_or((arch, ""));
    let mut config = match name {
        "gpt-oss-20b" => ModelConfig::parse(published(24, 32)),
        "gpt-oss-120b" => ModelConfig::parse(published(36, 128)),
        path if path.ends_with(".json") => ModelConfig::read(Path::new(path)),
        other => bail!("{other:?} is not gpt-oss-20b, gpt-oss-120b or the path of a config.json"),
    }?;
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

/// Makes the experts of a configuration packed (`mxfp4`) or dense (`bf16`).
pub fn set_format(config: &mut ModelConfig, format: &str) -> Result<()> {
    let packed = config.raw.contains_key("quantization_config");
    match (format, packed) {
        ("mxfp4", false) => {
            let quantization = published(1, 1)["quantization_config"].take();
            config
                .raw
                .insert("quantization_config".to_owned(), quantization);
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
    if config.architecture.vocab_size == 201_088 {
        raw.insert("bos_token_id".to_owned(), 199_998.into());
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

/// config.json in the style of the published models.
fn published(layers: usize, experts: usize) -> Value {
    let kinds: Vec<&str> = (0..layers)
        .map(|layer| ["sliding_attention", "full_attention"][layer % 2])
        .collect();
    json!({
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": true,
        "attention_dropout": 0.0,
        "eos_token_id": 200_002,
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2880,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 2880,
        "layer_types": kinds,
        "max_position_embeddings": 131_072,
        "model_type": "gpt_oss",
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": 8,
        "num_local_experts": experts,
        "output_router_logits": false,
        "pad_token_id": 199_999,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head"
            ],
            "quant_method": "mxfp4"
        },
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": false
        },
        "rope_theta": 150_000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": false,
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "vocab_size": 201_088
    })
}

/// A source of random weights, which are functions of their names.
pub struct SyntheticWeights {
    layers: usize,
    seed: u64,
    /// Whether the experts are in MXFP4.
    pub packed: bool,
}

impl SyntheticWeights {
    /// For a model of this shape; experts are MXFP4 if its configuration says so.
    pub fn new(config: &ModelConfig, seed: u64) -> Self {
        Self {
            layers: config.architecture.layers.len(),
            seed,
            packed: config.raw.contains_key("quantization_config"),
        }
    }

    /// The standard deviation of a matrix with this many inputs.
    fn deviation(&self, name: &str, inputs: usize) -> f64 {
        let plain = 1.0 / (inputs as f64).sqrt();
        match name.contains("o_proj") || name.contains("down_proj") {
            true => plain / (2.0 * self.layers as f64).sqrt(),
            false => plain,
        }
    }

    /// The scale byte of an MXFP4 matrix with this many inputs.
    fn scale(&self, name: &str, inputs: usize) -> u8 {
        let exponent = (self.deviation(name, inputs) / NIBBLE_STD).log2().round();
        (127.0 + exponent) as u8
    }

    /// The standard deviation of a tensor.
    pub fn std(&self, name: &str, shape: &[usize]) -> f32 {
        let inputs = match shape {
            // Experts are held as [E, in, out], everything else as [out, in].
            [_, inputs, _] => *inputs,
            [_, inputs] if !name.contains("_bias") => *inputs,
            _ => return if name.ends_with("sinks") { 0.5 } else { 0.02 },
        };
        match name.contains("embed_tokens") {
            true => 1.0,
            false => self.deviation(name, inputs) as f32,
        }
    }
}

/// The stream of random numbers for a name (FNV-1a).
pub fn stream(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl WeightSource for SyntheticWeights {
    fn contains(&self, name: &str) -> bool {
        match name.ends_with("_blocks") || name.ends_with("_scales") {
            true => self.packed,
            false => !(self.packed && name.contains(".experts.") && !name.ends_with("_bias")),
        }
    }

    fn check(&self, name: &str, _shape: &[usize], _dtype: DType) -> Result<()> {
        ensure!(self.contains(name), "a synthetic model has no {name}");
        Ok(())
    }

    fn tensor(&self, name: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        let key = (self.seed, stream(name));
        let make = || -> Result<Tensor> {
            if name.ends_with("_blocks") {
                return fill::bytes(shape, (0, 256), key, device);
            }
            if name.ends_with("_scales") {
                let inputs = shape.last().copied().unwrap_or(1) * 32;
                return fill::bytes(shape, (self.scale(name, inputs), 1), key, device);
            }
            if name.contains("norm") {
                return Ok(Tensor::ones(shape, dtype, device)?);
            }
            // Rounded to bf16 as in a checkpoint.
            let tensor = fill::normal(shape, self.std(name, shape), key, DType::BF16, device)?;
            Ok(tensor.to_dtype(dtype)?)
        };
        make().with_context(|| format!("synthetic tensor {name} {shape:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ForwardOptions, GptOss, LoadOptions};
    use crate::ops::SeqLayout;

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

    #[test]
    fn activations_stay_sane_and_every_expert_gets_tokens() {
        let mut raw = config("gpt-oss-20b").unwrap().raw;
        for (key, value) in [
            ("hidden_size", 128),
            ("intermediate_size", 128),
            ("num_hidden_layers", 24),
            ("num_attention_heads", 8),
            ("num_key_value_heads", 2),
            ("head_dim", 32),
            ("num_local_experts", 16),
            ("vocab_size", 1000),
        ] {
            raw.insert(key.to_owned(), value.into());
        }
        let config = ModelConfig::parse(Value::Object(raw)).unwrap();
        let options = LoadOptions::frozen(&Device::Cpu);
        let model = GptOss::load(
            &config,
            &SyntheticWeights::new(&config, 1),
            &options,
            |_| {},
        )
        .unwrap();
        let ids: Vec<u32> = (0..256).map(|i| i * 37 % 1000).collect();
        let ids = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap();
        let seqs = SeqLayout::new(&[256], &Device::Cpu).unwrap();
        let options = ForwardOptions {
            aux_coef: 1.0,
            ..Default::default()
        };
        let (hidden, pass) = model.forward(&ids, &seqs, &options).unwrap();
        let rms = |x: &Tensor| {
            let square = x.sqr().unwrap().mean_all().unwrap();
            square.to_scalar::<f32>().unwrap().sqrt()
        };
        assert!((0.8..4.0).contains(&rms(&hidden)), "rms {}", rms(&hidden));
        // A balanced router has an auxiliary loss near the number of experts a token uses.
        let aux = pass.aux_loss().unwrap();
        assert!((3.9..4.8).contains(&aux), "auxiliary loss {aux}");
    }
}
