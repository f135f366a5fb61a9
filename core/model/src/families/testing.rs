//! Models for tests: the tiny one of the goldens, and a small dense one of a family that does not exist, for what must not know
//! a family.

use super::decoder::{self, dense_mlp};
use super::{
    Architecture, AttentionSpec, DenseSpec, Family, LayerSpec, MlpSpec, ModelConfig, Rope,
};
use crate::ops::Heads;
use crate::ops::swiglu::Activation;
use serde_json::Map;
use std::path::{Path, PathBuf};

static DENSE: Family = Family {
    model_type: "dense",
    architecture: |_| anyhow::bail!("it is made without config.json"),
    tensors: |architecture| decoder::tensors(architecture, dense_mlp),
    quantization: None,
    gguf: None,
};

/// The folder of the tiny models.
pub fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/tiny")
}

/// The tiny mixture of experts.
pub fn tiny() -> ModelConfig {
    ModelConfig::read(&goldens().join("model_mxfp4/config.json")).unwrap()
}

/// Two layers with norms of queries and keys.
pub fn dense(tie_word_embeddings: bool) -> ModelConfig {
    let layer = LayerSpec {
        attention: AttentionSpec {
            heads: Heads {
                q: 4,
                kv: 2,
                dim: 8,
            },
            window: None,
            sinks: false,
            qk_norms: true,
            qkv_bias: false,
            output_bias: false,
        },
        mlp: MlpSpec::Dense(DenseSpec {
            intermediate_size: 48,
            activation: Activation::Swiglu,
            bias: false,
        }),
    };
    ModelConfig {
        family: &DENSE,
        architecture: Architecture {
            hidden_size: 16,
            vocab_size: 100,
            max_position_embeddings: 64,
            rms_norm_eps: 1e-6,
            rope: Rope {
                theta: 1e4,
                yarn: None,
            },
            tie_word_embeddings,
            layers: vec![layer; 2],
        },
        raw: Map::new(),
    }
}
