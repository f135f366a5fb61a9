//! The size of the model and its config.json.

use anyhow::Result;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::tokenizer::{SPECIAL, id};

/// Sizes of a gpt-oss model.
pub struct Shape {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Decoder layers, sliding and full attention in turn.
    pub layers: usize,
    /// Width of the residual stream; a multiple of 32 for MXFP4.
    pub hidden: usize,
    /// Width inside an expert; a multiple of 32 for MXFP4.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Experts in a layer; each token goes to two.
    pub experts: usize,
}

impl Shape {
    /// tiny-gpt-oss with this vocabulary.
    pub fn tiny(vocab: usize) -> Self {
        Self {
            vocab,
            layers: 4,
            hidden: 160,
            intermediate: 160,
            heads: 6,
            kv_heads: 2,
            head_dim: 32,
            experts: 8,
        }
    }

    /// The row of the key (or value) projection that serves a row of the query projection.
    pub fn kv_row(&self, query_row: usize) -> usize {
        let head = query_row / self.head_dim / (self.heads / self.kv_heads);
        head * self.head_dim + query_row % self.head_dim
    }

    /// config.json without a quantisation, as for the weights in training.
    pub fn config(&self, tokenizer: &Tokenizer) -> Result<Value> {
        let kind = |layer| {
            if layer % 2 == 0 {
                "sliding_attention"
            } else {
                "full_attention"
            }
        };
        let kinds: Vec<&str> = (0..self.layers).map(kind).collect();
        Ok(json!({
            "architectures": ["GptOssForCausalLM"],
            "attention_bias": true,
            "attention_dropout": 0.0,
            "eos_token_id": id(tokenizer, SPECIAL[2])?,
            "experts_per_token": 2,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initial_context_length": 4096,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "layer_types": kinds,
            "max_position_embeddings": 131072,
            "model_type": "gpt_oss",
            "num_attention_heads": self.heads,
            "num_experts_per_tok": 2,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "num_local_experts": self.experts,
            "output_router_logits": false,
            "pad_token_id": id(tokenizer, SPECIAL[1])?,
            "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": false,
                "original_max_position_embeddings": 4096,
            },
            "rope_theta": 150000,
            "router_aux_loss_coef": 0.9,
            "sliding_window": 32,
            "swiglu_limit": 7.0,
            "tie_word_embeddings": false,
            "torch_dtype": "float32",
            "use_cache": true,
            "vocab_size": self.vocab,
        }))
    }

    /// generation_config.json: generation ends at `<|return|>` or `<|endoftext|>`.
    pub fn generation_config(tokenizer: &Tokenizer) -> Result<Value> {
        let (start, pad, end) = (
            id(tokenizer, SPECIAL[0])?,
            id(tokenizer, SPECIAL[1])?,
            id(tokenizer, SPECIAL[2])?,
        );
        Ok(
            json!({ "bos_token_id": start, "do_sample": true, "eos_token_id": [end, pad], "pad_token_id": pad }),
        )
    }
}
