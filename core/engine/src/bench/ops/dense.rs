//! Operations on the tokens of a batch as they stand, and those of the head and the optimizer.

use super::{Ops, Work};
use crate::bench::count;
use anyhow::Result;
use apus_model::nn::Angles;
use apus_model::ops::attention::{self, Saved};
use apus_model::ops::lora::Pair;
use apus_model::ops::{
    SeqLayout, adamw, cross_entropy, linear, lora, philox, rms_norm, rope, swiglu,
};
use apus_sdk::AdamW;
use candle_core::{DType, Tensor};

/// Numbers that AdamW updates here.
const PARAMETERS: usize = 1 << 24;
/// Logits of a chunk of the head, at most.
const LOGITS: usize = 1 << 28;

/// Times them.
pub fn time(ops: &mut Ops) -> Result<()> {
    norms(ops)?;
    attentions(ops)?;
    projections(ops)?;
    activations(ops)?;
    head(ops)?;
    optimizer(ops)
}

fn norms(ops: &mut Ops) -> Result<()> {
    let (t, h, eps) = (
        ops.tokens(),
        ops.architecture.hidden_size,
        ops.architecture.rms_norm_eps,
    );
    let (x, dy, w) = (
        ops.random(&[t, h])?,
        ops.random(&[t, h])?,
        ops.random(&[h])?,
    );
    let bytes = t * h * ops.width();
    ops.time("rms_norm forward", Work::Bytes(2 * bytes), || {
        rms_norm::forward(&x, &w, eps)
    })?;
    ops.time("rms_norm backward", Work::Bytes(3 * bytes), || {
        rms_norm::backward(&x, &w, eps, &dy, None)
    })
}

fn attentions(ops: &mut Ops) -> Result<()> {
    let layers = &ops.architecture.layers;
    let heads = layers[0].attention.heads;
    let t = ops.tokens();
    let seqs = SeqLayout::new(&ops.lengths, ops.device)?;
    let table = Angles::new(ops.architecture, ops.device).table(seqs.max_len)?;
    let qkv = ops.random(&[t, heads.width()])?;
    let dout = ops.random(&[t, heads.q * heads.dim])?;
    let sinks = ops.random(&[heads.q])?;
    let bytes = 2 * t * heads.width() * ops.width();
    ops.time("rope", Work::Bytes(bytes), || {
        rope::apply(&qkv, &table, &seqs.positions, heads, false)
    })?;
    let sliding = layers.iter().find_map(|layer| layer.attention.window);
    let kinds = sliding.map(|window| ("sliding", Some(window)));
    for (kind, window) in [("full", None)].into_iter().chain(kinds) {
        let flops = count::attention_forward(heads, &ops.lengths, window);
        let name = |direction: &str| format!("attention, {kind}, {direction}");
        ops.time(name("forward"), Work::Flops(flops), || {
            attention::forward(&qkv, Some(&sinks), &seqs, heads, window)
        })?;
        let (out, lse) = attention::forward(&qkv, Some(&sinks), &seqs, heads, window)?;
        let saved = Saved { out, lse };
        let flops = count::attention_backward(flops);
        ops.time(name("backward"), Work::Flops(flops), || {
            attention::backward(&qkv, Some(&sinks), &seqs, heads, window, &saved, &dout)
        })?;
    }
    Ok(())
}

/// The projection of queries, and an update of it.
fn projections(ops: &mut Ops) -> Result<()> {
    let (t, i) = (ops.tokens(), ops.architecture.hidden_size);
    let o = ops.architecture.layers[0].attention.width();
    let (x, dy, w, bias) = (
        ops.random(&[t, i])?,
        ops.random(&[t, o])?,
        ops.random(&[o, i])?,
        ops.random(&[o])?,
    );
    let flops = 2 * (t * i * o) as u64;
    ops.time("linear q_proj forward", Work::Flops(flops), || {
        linear::forward(&x, &w, Some(&bias))
    })?;
    ops.time("linear q_proj input gradient", Work::Flops(flops), || {
        linear::input_grad(&dy, &w)
    })?;
    let pair = Pair {
        a: ops.random_as(&[ops.rank, i], DType::F32)?,
        b: ops.random_as(&[o, ops.rank], DType::F32)?,
        scale: 2.0,
    };
    let (read, written) = (t * i * ops.width(), t * o * ops.width());
    ops.time("LoRA q_proj forward", Work::Bytes(read + written), || {
        lora::forward(&x, &pair)
    })?;
    let (_, xa) = lora::forward(&x, &pair)?;
    ops.time(
        "LoRA q_proj backward",
        Work::Bytes(2 * read + written),
        || lora::backward(&x, &pair, &xa, &dy),
    )
}

fn activations(ops: &mut Ops) -> Result<()> {
    let mlp = &ops.architecture.layers[0].mlp;
    let (n, f) = (ops.tokens() * mlp.rows_per_token(), mlp.intermediate_size());
    let gate_up = ops.random(&[n, 2 * f])?;
    let bytes = n * f * ops.width();
    ops.time("swiglu forward", Work::Bytes(3 * bytes), || {
        swiglu::forward(&gate_up, mlp.activation())
    })
}

/// Cross entropy of a chunk as the head cuts them.
fn head(ops: &mut Ops) -> Result<()> {
    let v = ops.architecture.vocab_size;
    let n = ops.tokens().min((LOGITS / v).max(1));
    let logits = ops.random(&[n, v])?;
    let label = |at: usize| philox::block(ops.seed, 1, at as u64)[0] % v as u32;
    let labels: Vec<u32> = (0..n).map(label).collect();
    let labels = Tensor::new(labels.as_slice(), ops.device)?;
    let dloss = ops.random_as(&[n], DType::F32)?;
    let bytes = n * v * ops.width();
    let name = |direction: &str| format!("cross entropy of {n} tokens {direction}");
    ops.time(name("forward"), Work::Bytes(bytes), || {
        cross_entropy::forward(&logits, &labels)
    })?;
    let lse = cross_entropy::forward(&logits, &labels)?.lse;
    ops.time(name("backward"), Work::Bytes(2 * bytes), || {
        cross_entropy::backward(logits.clone(), &lse, &labels, &dloss)
    })
}

fn optimizer(ops: &mut Ops) -> Result<()> {
    let random = || ops.random_as(&[PARAMETERS], DType::F32);
    let (p, g, m, v) = (random()?, random()?, random()?, random()?.sqr()?);
    let hyper = AdamW {
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        step: 1,
    };
    // Value and both moments are read and written, the gradient is read.
    let bytes = 7 * 4 * PARAMETERS;
    ops.time("adamw of 16.8 M parameters", Work::Bytes(bytes), || {
        adamw::step(&p, &g, &m, &v, &hyper)
    })
}
