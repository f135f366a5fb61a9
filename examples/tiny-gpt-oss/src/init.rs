//! The random weights that training starts from.
//!
//! Plain normal weights would do, but a small model then spends most of its time on finding out how to copy a
//! word of the question into the answer. Three correlations give it that from the start, in the manner of
//! "mimetic initialization" (Trockman and Kolter, 2023): the output head is the embedding, queries resemble
//! the keys of their group, and the output projection resembles the transposed values. The loss gets to the
//! same place in half as many tokens.

use std::path::Path;

use anyhow::Result;
use apus_engine::export::writer::{Entry, Extra, write_model};
use safetensors::Dtype;
use serde_json::Value;

use crate::random::Random;
use crate::shape::Shape;

/// How much of a query is its key, and of an output projection its transposed value.
const LIKENESS: f64 = 0.5;

/// Writes `folder` with f32 weights; `config` becomes its config.json, the tokenizer comes from `tokenizer`.
///
/// Fails if the folder exists or cannot be written.
pub fn write(
    folder: &Path,
    config: &Value,
    shape: &Shape,
    tokenizer: &Path,
    random: &mut Random,
) -> Result<()> {
    let tensors = tensors(shape, random);
    let entry = |(name, shape, _): &(String, Vec<usize>, Vec<f32>)| Entry {
        name: name.clone(),
        dtype: Dtype::F32,
        shape: shape.clone(),
    };
    let entries: Vec<Entry> = tensors.iter().map(entry).collect();
    let extra = Extra {
        config: config.clone(),
        generation: None,
        copy_from: Some(tokenizer),
        made_by: None,
    };
    let mut values = tensors.iter().map(|(_, _, values)| values);
    write_model(folder, &entries, usize::MAX, true, &extra, |_| {
        let values = values.next().map(Vec::as_slice).unwrap_or_default();
        Ok(values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect())
    })
}

/// Name, shape and values of every tensor.
fn tensors(s: &Shape, random: &mut Random) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let (h, d, q, kv, e, f) = (
        s.hidden,
        s.head_dim,
        s.heads,
        s.kv_heads,
        s.experts,
        s.intermediate,
    );
    let residual = (2.0 * s.layers as f64).powf(-0.5);
    let fan_in = |inputs: usize| (inputs as f64).powf(-0.5);
    let constant = |count: usize, value: f32| vec![value; count];
    let mut all = Vec::new();
    let mut push = |name: &str, shape: &[usize], values: Vec<f32>| {
        all.push((name.to_owned(), shape.to_vec(), values))
    };

    let embedding = random.normals(s.vocab * h, 1.0);
    let head = embedding
        .iter()
        .map(|value| value * 0.5 * fan_in(h) as f32)
        .collect();
    push("model.embed_tokens.weight", &[s.vocab, h], embedding);
    for layer in 0..s.layers {
        let mut push = |name: &str, shape: &[usize], values| {
            push(&format!("model.layers.{layer}.{name}"), shape, values)
        };
        let keys = random.normals(kv * d * h, fan_in(h));
        let values = random.normals(kv * d * h, fan_in(h));
        let queries = mix(&random.normals(q * d * h, fan_in(h)), |i| {
            f64::from(keys[s.kv_row(i / h) * h + i % h])
        });
        let gain = (h as f64 / (q * d) as f64).sqrt();
        let output = mix(&random.normals(h * q * d, fan_in(q * d)), |i| {
            gain * f64::from(values[s.kv_row(i % (q * d)) * h + i / (q * d)])
        });
        let output = output.iter().map(|value| value * residual as f32).collect();
        push("input_layernorm.weight", &[h], constant(h, 1.0));
        push("self_attn.q_proj.weight", &[q * d, h], queries);
        push("self_attn.q_proj.bias", &[q * d], constant(q * d, 0.0));
        for (name, weight) in [("k_proj", keys), ("v_proj", values)] {
            push(&format!("self_attn.{name}.weight"), &[kv * d, h], weight);
            push(
                &format!("self_attn.{name}.bias"),
                &[kv * d],
                constant(kv * d, 0.0),
            );
        }
        push("self_attn.o_proj.weight", &[h, q * d], output);
        push("self_attn.o_proj.bias", &[h], constant(h, 0.0));
        push("self_attn.sinks", &[q], constant(q, 0.0));
        push("post_attention_layernorm.weight", &[h], constant(h, 1.0));
        push(
            "mlp.router.weight",
            &[e, h],
            random.normals(e * h, fan_in(h)),
        );
        push("mlp.router.bias", &[e], constant(e, 0.0));
        push(
            "mlp.experts.gate_up_proj",
            &[e, h, 2 * f],
            random.normals(e * h * 2 * f, fan_in(h)),
        );
        push(
            "mlp.experts.gate_up_proj_bias",
            &[e, 2 * f],
            constant(e * 2 * f, 0.0),
        );
        push(
            "mlp.experts.down_proj",
            &[e, f, h],
            random.normals(e * f * h, fan_in(f) * residual),
        );
        push("mlp.experts.down_proj_bias", &[e, h], constant(e * h, 0.0));
    }
    push("model.norm.weight", &[h], constant(h, 1.0));
    push("lm_head.weight", &[s.vocab, h], head);
    all
}

/// Noise with a share of `like(index)` in it, at the same variance.
fn mix(noise: &[f32], like: impl Fn(usize) -> f64) -> Vec<f32> {
    let rest = (1.0 - LIKENESS * LIKENESS).sqrt();
    noise
        .iter()
        .enumerate()
        .map(|(i, n)| (rest * f64::from(*n) + LIKENESS * like(i)) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cosine of two rows.
    fn likeness(a: &[f32], b: &[f32]) -> f32 {
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn queries_resemble_the_keys_of_their_group_and_only_those() {
        let shape = Shape::tiny(64);
        let tensors = tensors(&shape, &mut Random::new(5));
        let find = |end: &str| {
            &tensors
                .iter()
                .find(|(name, ..)| name.ends_with(end))
                .unwrap()
                .2
        };
        let (queries, keys) = (
            find("0.self_attn.q_proj.weight"),
            find("0.self_attn.k_proj.weight"),
        );
        let row =
            |values: &[f32], i: usize| values[i * shape.hidden..(i + 1) * shape.hidden].to_vec();
        let mean = |other: &dyn Fn(usize) -> usize| {
            let rows = shape.heads * shape.head_dim;
            let sum: f32 = (0..rows)
                .map(|i| likeness(&row(queries, i), &row(keys, other(i))))
                .sum();
            sum / rows as f32
        };
        assert!((mean(&|i| shape.kv_row(i)) - LIKENESS as f32).abs() < 0.03);
        assert!(mean(&|i| (shape.kv_row(i) + 1) % 64).abs() < 0.03);
        let (embedding, head) = (find("embed_tokens.weight"), find("lm_head.weight"));
        assert!((likeness(embedding, head) - 1.0).abs() < 1e-4);
    }
}
