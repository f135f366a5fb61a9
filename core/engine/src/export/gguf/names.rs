//! What llama.cpp calls the tensors of a model (`gguf-py/gguf/constants.py`), and in which type it wants them.

use super::header::Kind;
use anyhow::{Context, Result};
use apus_model::tensors::{ExpertMatrix, Part, Role, TensorSpec};

/// The names of a tensor: one, or two where gate and up are one matrix, whose outputs belong to them in turn.
///
/// # Errors
/// It has none.
pub fn names(spec: &TensorSpec) -> Result<Vec<String>> {
    let of_layer: &[&str] = match spec.role {
        Role::AttentionNorm => &["attn_norm"],
        Role::Query => &["attn_q"],
        Role::Key => &["attn_k"],
        Role::Value => &["attn_v"],
        Role::Output => &["attn_output"],
        Role::Sinks => &["attn_sinks"],
        Role::MlpNorm => &["post_attention_norm"],
        Role::Router => &["ffn_gate_inp"],
        Role::Experts(ExpertMatrix::GateUp) => &["ffn_gate_exps", "ffn_up_exps"],
        Role::Experts(ExpertMatrix::Down) => &["ffn_down_exps"],
        Role::Embedding => &["token_embd"],
        Role::FinalNorm => &["output_norm"],
        Role::Head => &["output"],
        Role::QueryNorm | Role::KeyNorm | Role::Gate | Role::Up | Role::Down => &[],
    };
    let none = || format!("{}: llama.cpp has no name for such a tensor", spec.name);
    of_layer.first().with_context(none)?;
    let part = match spec.part {
        Part::Weight => "weight",
        Part::Bias => "bias",
    };
    let name = |name: &&str| match spec.layer {
        Some(layer) => format!("blk.{layer}.{name}.{part}"),
        None => format!("{name}.{part}"),
    };
    Ok(of_layer.iter().map(name).collect())
}

/// The kind of a tensor that is no matrix of experts, in a file whose matrices are of this kind. llama.cpp computes with biases, norms,
/// sinks and routers in F32 alone.
pub fn kind(spec: &TensorSpec, matrices: Kind) -> Kind {
    let matrix = matches!(
        spec.role,
        Role::Embedding | Role::Head | Role::Query | Role::Key | Role::Value | Role::Output
    );
    match matrix && spec.part == Part::Weight {
        true => matrices,
        false => Kind::F32,
    }
}
