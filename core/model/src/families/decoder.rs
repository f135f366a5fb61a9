//! The tensors of a decoder by the names that transformers gives them in most families. A family that names some of them
//! otherwise, or has others, brings a function for that part.

use super::{Architecture, AttentionSpec, LayerSpec, MlpSpec};
use crate::tensors::{LayerTensors, ModuleKind, Part, Role, TensorList};

/// Adds the tensors of a layer's MLP to it; the number is the width of the MLP's inputs and outputs.
pub type MlpTensors = fn(&mut LayerTensors, usize, &MlpSpec);

/// All tensors; `mlp` adds those of MLPs.
pub fn tensors(architecture: &Architecture, mlp: MlpTensors) -> TensorList {
    let (hidden, vocab) = (architecture.hidden_size, architecture.vocab_size);
    let mut list = TensorList::default();
    list.outside(Role::Embedding, "model.embed_tokens", &[vocab, hidden]);
    for (index, layer) in architecture.layers.iter().enumerate() {
        let LayerSpec {
            attention,
            mlp: spec,
        } = layer;
        let mut tensors = list.layer(format!("model.layers.{index}"));
        add_attention(&mut tensors, hidden, attention);
        mlp(&mut tensors, hidden, spec);
        tensors.norm(Role::AttentionNorm, "input_layernorm", hidden);
        tensors.norm(Role::MlpNorm, "post_attention_layernorm", hidden);
    }
    list.outside(Role::FinalNorm, "model.norm", &[hidden]);
    list.module("model.rotary_emb", ModuleKind::Container);
    match architecture.tie_word_embeddings {
        true => list.module("lm_head", ModuleKind::Head),
        false => list.outside(Role::Head, "lm_head", &[vocab, hidden]),
    }
    list
}

fn add_attention(tensors: &mut LayerTensors, hidden: usize, attention: &AttentionSpec) {
    let (width, kv_width) = (attention.width(), attention.kv_width());
    if attention.sinks {
        let heads = attention.heads.q;
        tensors.tensor(Role::Sinks, Part::Weight, "self_attn.sinks", &[heads]);
    }
    let bias = attention.qkv_bias;
    tensors.linear(Role::Query, "self_attn.q_proj", (hidden, width), bias);
    tensors.linear(Role::Key, "self_attn.k_proj", (hidden, kv_width), bias);
    tensors.linear(Role::Value, "self_attn.v_proj", (hidden, kv_width), bias);
    let bias = attention.output_bias;
    tensors.linear(Role::Output, "self_attn.o_proj", (width, hidden), bias);
    if attention.qk_norms {
        tensors.norm(Role::QueryNorm, "self_attn.q_norm", attention.heads.dim);
        tensors.norm(Role::KeyNorm, "self_attn.k_norm", attention.heads.dim);
    }
}

/// Adds the tensors of a dense MLP, if it is one.
pub fn dense_mlp(tensors: &mut LayerTensors, hidden: usize, mlp: &MlpSpec) {
    let MlpSpec::Dense(dense) = mlp else {
        return;
    };
    let (inner, bias) = (dense.intermediate_size, dense.bias);
    tensors.linear(Role::Gate, "mlp.gate_proj", (hidden, inner), bias);
    tensors.linear(Role::Up, "mlp.up_proj", (hidden, inner), bias);
    tensors.linear(Role::Down, "mlp.down_proj", (inner, hidden), bias);
    tensors.module("mlp.act_fn");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::{DenseSpec, Rope};
    use crate::ops::Heads;
    use crate::ops::swiglu::Activation;

    /// Qwen3-0.6B: dense, with norms of queries and keys and a tied head.
    #[test]
    fn a_dense_model_has_its_published_number_of_parameters() {
        let layer = LayerSpec {
            attention: AttentionSpec {
                heads: Heads {
                    q: 16,
                    kv: 8,
                    dim: 128,
                },
                window: None,
                sinks: false,
                qk_norms: true,
                qkv_bias: false,
                output_bias: false,
            },
            mlp: MlpSpec::Dense(DenseSpec {
                intermediate_size: 3072,
                activation: Activation::Swiglu,
                bias: false,
            }),
        };
        let architecture = Architecture {
            hidden_size: 1024,
            vocab_size: 151_936,
            max_position_embeddings: 40_960,
            rms_norm_eps: 1e-6,
            rope: Rope {
                theta: 1e6,
                yarn: None,
            },
            tie_word_embeddings: true,
            layers: vec![layer; 28],
        };
        let list = tensors(&architecture, dense_mlp);
        assert_eq!(list.parameters(), 596_049_920);
        assert_eq!(list.iter().count(), 310);
        assert!(list.weight(None, Role::Head).is_none());
        let last: Vec<&str> = list
            .modules()
            .iter()
            .rev()
            .map(|m| m.path.as_str())
            .collect();
        assert_eq!(last[..3], ["lm_head", "model.rotary_emb", "model.norm"]);
    }
}
