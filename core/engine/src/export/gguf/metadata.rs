//! What a file says about the model itself, by llama.cpp's keys (`gguf-py/gguf/constants.py`).

use super::header::{Kind, Value as Fact};
use anyhow::{Context, Result};
use apus_model::families::{Gguf, ModelConfig};

/// The facts about a model of this name, whose family llama.cpp knows as `known`, in a file that is mostly of one kind.
///
/// # Errors
/// A size is larger than a file can say.
pub fn facts(
    config: &ModelConfig,
    known: &Gguf,
    (name, most): (&str, Kind),
) -> Result<Vec<(String, Fact)>> {
    let architecture = &config.architecture;
    let first = &architecture.layers[0];
    let heads = first.attention.heads;
    let windows = architecture
        .layers
        .iter()
        .map(|layer| layer.attention.window);
    let mut facts = vec![
        (
            "general.architecture".to_owned(),
            Fact::from(known.architecture),
        ),
        ("general.type".to_owned(), Fact::from("model")),
        ("general.name".to_owned(), Fact::from(name)),
        ("general.file_type".to_owned(), Fact::U32(file_type(most))),
        ("general.quantization_version".to_owned(), Fact::U32(2)),
    ];
    let mut add = |key: &str, fact: Fact| {
        facts.push((format!("{}.{key}", known.architecture), fact));
    };
    for (key, size) in [
        ("block_count", Some(architecture.layers.len())),
        ("context_length", Some(architecture.max_position_embeddings)),
        ("embedding_length", Some(architecture.hidden_size)),
        ("feed_forward_length", Some(first.mlp.intermediate_size())),
        ("attention.head_count", Some(heads.q)),
        ("attention.head_count_kv", Some(heads.kv)),
        ("attention.key_length", Some(heads.dim)),
        ("attention.value_length", Some(heads.dim)),
        ("attention.sliding_window", windows.flatten().max()),
        ("expert_count", first.mlp.mixture().map(|m| m.experts)),
        (
            "expert_used_count",
            first.mlp.mixture().map(|m| m.experts_per_token),
        ),
        (
            "expert_feed_forward_length",
            first.mlp.mixture().map(|m| m.intermediate_size),
        ),
    ] {
        if let Some(size) = size {
            let size = u32::try_from(size).with_context(|| format!("{key}: {size}"))?;
            add(key, Fact::U32(size));
        }
    }
    add(
        "attention.layer_norm_rms_epsilon",
        Fact::F32(architecture.rms_norm_eps as f32),
    );
    let rope = &architecture.rope;
    add("rope.freq_base", Fact::F32(rope.theta as f32));
    if let Some(yarn) = &rope.yarn {
        add("rope.scaling.type", Fact::from("yarn"));
        add("rope.scaling.factor", Fact::F32(yarn.factor as f32));
        add(
            "rope.scaling.original_context_length",
            Fact::U32(yarn.original as u32),
        );
        add(
            "rope.scaling.yarn_beta_fast",
            Fact::F32(yarn.beta_fast as f32),
        );
        add(
            "rope.scaling.yarn_beta_slow",
            Fact::F32(yarn.beta_slow as f32),
        );
    }
    Ok(facts)
}

/// llama.cpp's number of what most of a file is.
fn file_type(most: Kind) -> u32 {
    match most {
        Kind::F32 => 0,
        Kind::Bf16 => 32,
        Kind::Mxfp4 => 38,
    }
}
