//! Flash attention on tensor cores; Hopper has versions of its own.

use super::Saved;
use crate::ops::cuda::{capability, empty, input, output};
use crate::ops::{Heads, SeqLayout};
use anyhow::{Context, Result};
use apus_kernels::{
    Attention, In, LargeAttention, Out, attention_backward_kv, attention_backward_q,
    attention_delta, attention_forward, attention_sink_grad, attention_tile,
};
use candle_core::{CudaDevice, DType, Tensor};
use half::bf16;

fn no_kernel(heads: Heads) -> String {
    format!(
        "head_dim {} has no CUDA kernel; there are ones for 16, 32, 64 and 128",
        heads.dim
    )
}

fn tiles(seqs: &SeqLayout, heads: Heads) -> usize {
    seqs.ranges()
        .map(|(start, end)| (end - start).div_ceil(attention_tile(heads.dim)))
        .sum()
}

/// Elements from the start of a packed row to its k and v parts.
pub fn parts(heads: Heads) -> [usize; 2] {
    let k = heads.q * heads.dim;
    [k, k + heads.kv * heads.dim]
}

/// What scores are multiplied by.
pub fn scale(heads: Heads) -> f32 {
    1.0 / (heads.dim as f32).sqrt()
}

/// The versions of the kernels of a head dim that every card runs.
pub fn every_card(heads: Heads) -> Result<Attention> {
    Attention::new(heads.dim).with_context(|| no_kernel(heads))
}

/// The version of the forward kernel for a card.
pub fn for_card(heads: Heads, cuda: &CudaDevice) -> Result<LargeAttention> {
    LargeAttention::forward(heads.dim, capability(cuda)?).with_context(|| no_kernel(heads))
}

/// Output and log-sum-exp.
pub fn forward(
    qkv: &Tensor,
    sinks: &Tensor,
    seqs: &SeqLayout,
    heads: Heads,
    window: Option<usize>,
    cuda: &CudaDevice,
) -> Result<(Tensor, Tensor)> {
    let (t, width) = qkv.dims2()?;
    let qkv = qkv.contiguous()?;
    let out = empty((t, heads.q * heads.dim), DType::BF16, cuda)?;
    let lse = empty((heads.q, t), DType::F32, cuda)?;
    let q: In<bf16> = input(&qkv)?;
    let [k, v] = parts(heads);
    let cu = Some(input(&seqs.offsets_dev)?);
    attention_forward {
        out: output(&out)?,
        lse: Some(output(&lse)?),
        q,
        k: q.offset(k),
        v: q.offset(v),
        sinks: input(sinks)?,
        cu_q: cu,
        cu_k: cu,
        n: seqs.offsets.len() - 1,
        total_q: t,
        total_k: t,
        q_stride: width,
        kv_stride: width,
        out_stride: heads.q * heads.dim,
        q_heads: heads.q,
        kv_heads: heads.kv,
        window: window.unwrap_or(0),
        scale: scale(heads),
        version: for_card(heads, cuda)?,
        tiles: tiles(seqs, heads),
    }
    .launch(&cuda.cuda_stream())?;
    Ok((out, lse))
}

/// Gradients by qkv and sinks.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    qkv: &Tensor,
    sinks: &Tensor,
    seqs: &SeqLayout,
    heads: Heads,
    window: Option<usize>,
    saved: &Saved,
    dout: &Tensor,
    cuda: &CudaDevice,
) -> Result<(Tensor, Tensor)> {
    let (t, width) = qkv.dims2()?;
    let (qkv, dout) = (qkv.contiguous()?, dout.contiguous()?);
    let version = every_card(heads)?;
    let stream = cuda.cuda_stream();
    let delta = empty((heads.q, t), DType::F32, cuda)?;
    attention_delta {
        delta: output(&delta)?,
        out: input(&saved.out)?,
        dout: input(&dout)?,
        tokens: t,
        q_heads: heads.q,
        version,
    }
    .launch(&stream)?;

    let dqkv = empty((t, width), DType::BF16, cuda)?;
    let (dq, q): (Out<bf16>, In<bf16>) = (output(&dqkv)?, input(&qkv)?);
    let [to_k, to_v] = parts(heads);
    let (k, v) = (q.offset(to_k), q.offset(to_v));
    let large = LargeAttention::backward(heads.dim, capability(cuda)?, window.is_some())
        .with_context(|| no_kernel(heads))?;
    let tiles = tiles(seqs, heads);
    attention_backward_kv {
        dk: dq.offset(to_k),
        dv: dq.offset(to_v),
        q,
        k,
        v,
        dout: input(&dout)?,
        lse: input(&saved.lse)?,
        delta: input(&delta)?,
        cu: input(&seqs.offsets_dev)?,
        n: seqs.offsets.len() - 1,
        tokens: t,
        stride: width,
        dout_stride: heads.q * heads.dim,
        q_heads: heads.q,
        kv_heads: heads.kv,
        window: window.unwrap_or(0),
        scale: scale(heads),
        version: large,
        tiles,
    }
    .launch(&stream)?;
    attention_backward_q {
        dq,
        q,
        k,
        v,
        dout: input(&dout)?,
        lse: input(&saved.lse)?,
        delta: input(&delta)?,
        cu: input(&seqs.offsets_dev)?,
        n: seqs.offsets.len() - 1,
        tokens: t,
        stride: width,
        dout_stride: heads.q * heads.dim,
        q_heads: heads.q,
        kv_heads: heads.kv,
        window: window.unwrap_or(0),
        scale: scale(heads),
        version: large,
        tiles,
    }
    .launch(&stream)?;

    let dsinks = empty(heads.q, DType::F32, cuda)?;
    attention_sink_grad {
        dsinks: output(&dsinks)?,
        lse: input(&saved.lse)?,
        delta: input(&delta)?,
        sinks: input(sinks)?,
        tokens: t,
        version,
        q_heads: heads.q,
    }
    .launch(&stream)?;
    Ok((dqkv, dsinks))
}
