//! gpt-oss (<https://arxiv.org/abs/2508.10925>): a mixture of experts in every layer, a sink for every query head, sliding
//! windows in every other layer, biases everywhere but in the head, YaRN.

use super::decoder;
use super::fields::{MOST_LAYERS, MOST_PARTS, MOST_POSITIONS, MOST_WIDTH, UnsetRope};
use super::{
    Architecture, AttentionSpec, Family, Fields, Gguf, LayerSpec, MixtureSpec, MlpSpec, Yarn,
};
use crate::ops::swiglu::Activation;
use crate::tensors::{ExpertMatrix, LayerTensors, Role, TensorList};
use anyhow::{Result, bail, ensure};
use apus_base::limits::MOST_TOKENS;
use serde_json::{Value, json};

/// gpt-oss.
pub const FAMILY: Family = Family {
    model_type: "gpt_oss",
    architecture,
    tensors,
    quantization: Some(quantization),
    gguf: Some(Gguf {
        architecture: "gpt-oss",
        check: check_llama_cpp,
    }),
};

/// The factor inside the activation's sigmoid.
const ALPHA: f32 = 1.702;

/// Reads config.json in the spelling of the model's authors and of transformers 5.
fn architecture(fields: &Fields) -> Result<Architecture> {
    let layers = fields.size("num_hidden_layers", MOST_LAYERS)?;
    let hidden_size = fields.size("hidden_size", MOST_WIDTH)?;
    let intermediate_size = fields.size("intermediate_size", MOST_WIDTH)?;
    let heads = fields.heads()?;
    let mixture = MixtureSpec {
        experts: fields.size("num_local_experts", MOST_PARTS)?,
        experts_per_token: experts_per_token(fields)?,
        intermediate_size,
        activation: Activation::ClampedSwiglu {
            alpha: ALPHA,
            limit: fields.number("swiglu_limit", 7.0, f64::MIN_POSITIVE..=1e6)? as f32,
        },
        bias: true,
        router_bias: true,
    };
    let vocab_size = fields.size("vocab_size", MOST_TOKENS)?;
    let window = fields.size("sliding_window", MOST_POSITIONS)?;
    let sliding = match fields.layer_types(layers)? {
        Some(sliding) => sliding,
        None => (0..layers).map(|layer| layer % 2 == 0).collect(),
    };
    let layer = |sliding: bool| LayerSpec {
        attention: AttentionSpec {
            heads,
            window: sliding.then_some(window),
            sinks: true,
            qk_norms: false,
            qkv_bias: true,
            output_bias: true,
        },
        mlp: MlpSpec::Mixture(mixture.clone()),
    };
    let architecture = Architecture {
        hidden_size,
        vocab_size,
        max_position_embeddings: fields.size("max_position_embeddings", MOST_POSITIONS)?,
        rms_norm_eps: fields.number("rms_norm_eps", 1e-5, f64::MIN_POSITIVE..=1.0)?,
        rope: fields.rope(&unset_rope())?,
        tie_word_embeddings: false,
        layers: sliding.into_iter().map(layer).collect(),
    };
    check_fixed(fields)?;
    Ok(architecture)
}

/// Names, shapes and roles of all tensors.
fn tensors(architecture: &Architecture) -> TensorList {
    decoder::tensors(architecture, mixture_tensors)
}

fn mixture_tensors(tensors: &mut LayerTensors, hidden: usize, mlp: &MlpSpec) {
    let Some(mixture) = mlp.mixture() else {
        return;
    };
    let (experts, inner) = (mixture.experts, mixture.intermediate_size);
    let bias = mixture.router_bias;
    tensors.linear(Role::Router, "mlp.router", (hidden, experts), bias);
    let mut matrix = |matrix, name, dims| {
        tensors.experts(matrix, name, experts, dims, mixture.bias);
    };
    matrix(
        ExpertMatrix::GateUp,
        "mlp.experts.gate_up_proj",
        (hidden, 2 * inner),
    );
    matrix(ExpertMatrix::Down, "mlp.experts.down_proj", (inner, hidden));
}

/// As the published models say it.
pub fn quantization() -> Value {
    json!({
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head"
        ],
        "quant_method": "mxfp4"
    })
}

/// What llama.cpp's graph of gpt-oss has written into it: the limit of the activation, and which layers have windows.
fn check_llama_cpp(architecture: &Architecture) -> Result<()> {
    for (index, layer) in architecture.layers.iter().enumerate() {
        let found = layer.mlp.mixture().map(|mixture| mixture.activation);
        let expected = Activation::ClampedSwiglu {
            alpha: ALPHA,
            limit: 7.0,
        };
        ensure!(
            found == Some(expected),
            "swiglu_limit is not 7, which llama.cpp has fixed for gpt-oss"
        );
        let (found, expected) = (layer.attention.window.is_some(), index % 2 == 0);
        ensure!(
            found == expected,
            "layer_types: layer {index} has {}; for llama.cpp every other layer of gpt-oss has one, the first included",
            if found { "a sliding window" } else { "none" }
        );
    }
    Ok(())
}

/// As transformers fills in what the published files leave out.
fn unset_rope() -> UnsetRope {
    UnsetRope {
        yarn: Some(Yarn {
            factor: 32.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original: 4096.0,
            truncate: false,
        }),
        original: Some("initial_context_length"),
    }
}

/// Reads `num_experts_per_tok`, which the authors write under two names.
fn experts_per_token(fields: &Fields) -> Result<usize> {
    let names = ["num_experts_per_tok", "experts_per_token"];
    let sizes = names.map(|name| match fields.contains(name) {
        true => fields.size(name, MOST_PARTS).map(Some),
        false => Ok(None),
    });
    let [first, second] = sizes;
    match (first?, second?) {
        (Some(a), Some(b)) if a != b => {
            bail!("num_experts_per_tok is {a} and experts_per_token {b}, which is the same field")
        }
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => bail!("num_experts_per_tok is missing"),
    }
}

/// Checks fields that are the same in every gpt-oss.
fn check_fixed(fields: &Fields) -> Result<()> {
    let alpha = f64::from(ALPHA);
    if let Some(found) = fields.get("swiglu_alpha") {
        let close = |found: f64| (found - alpha).abs() < 1e-6;
        ensure!(
            found.as_f64().is_some_and(close),
            "swiglu_alpha is {found}, expected {alpha:.3}"
        );
    }
    for (name, expected, why) in [
        (
            "attention_bias",
            json!(true),
            "gpt-oss has biases in its attention",
        ),
        (
            "attention_dropout",
            json!(0.0),
            "attention has no dropout here",
        ),
        ("hidden_act", json!("silu"), "there is no other activation"),
        (
            "partial_rotary_factor",
            json!(1.0),
            "all dimensions are rotated",
        ),
        (
            "tie_word_embeddings",
            json!(false),
            "gpt-oss has an output head of its own",
        ),
    ] {
        fields.fixed(name, &expected, why)?;
    }
    if let Some(quantization) = fields.get("quantization_config") {
        let method = quantization.get("quant_method").and_then(Value::as_str);
        ensure!(
            method == Some("mxfp4"),
            "quantization_config is {quantization}, expected quant_method mxfp4, or none at all for BF16 weights"
        );
    }
    Ok(())
}
