//! The models that can be named by `synthetic:NAME`: published ones, whose config.json is known here.

use crate::families::ModelConfig;
use crate::families::gpt_oss::quantization;
use serde_json::{Value, json};

/// A model by its name.
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// Its config.json.
    pub config: fn() -> Value,
}

const PRESETS: &[Preset] = &[
    Preset {
        name: "gpt-oss-20b",
        config: || gpt_oss(24, 32),
    },
    Preset {
        name: "gpt-oss-120b",
        config: || gpt_oss(36, 128),
    },
];

/// The preset of this name.
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// The names of all presets.
pub fn names() -> Vec<&'static str> {
    PRESETS.iter().map(|preset| preset.name).collect()
}

/// The token that a text begins with, which generation_config.json names and config.json does not: known of models that
/// have the vocabulary of gpt-oss.
pub fn bos_token_id(config: &ModelConfig) -> Option<u64> {
    (config.architecture.vocab_size == 201_088).then_some(199_998)
}

/// config.json of a gpt-oss in the style of the published models.
fn gpt_oss(layers: usize, experts: usize) -> Value {
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
        "quantization_config": quantization(),
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
