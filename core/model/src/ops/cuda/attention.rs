//! See [`crate::ops::attention`].

use super::card::capability;
use super::launch::{Arg, Grid, b16, empty, f32, int, launch, pointer, u32};
use crate::ops::attention::Saved;
use crate::ops::{Heads, SeqLayout};
use anyhow::{Context, Result};
use apus_kernels::{Module, attention, attention_large, attention_tile};
use candle_core::{CudaDevice, DType, Tensor};

const BF16: u64 = 2;

fn module(heads: Heads) -> Result<&'static Module> {
    attention(heads.dim).with_context(|| no_kernel(heads))
}

fn no_kernel(heads: Heads) -> String {
    format!(
        "head_dim {} has no CUDA kernel; there are ones for 16, 32, 64 and 128",
        heads.dim
    )
}

/// Launches a kernel that has versions by card, on a grid of heads and tiles.
fn launch_large(
    cuda: &CudaDevice,
    kernel: &str,
    heads: Heads,
    window: Option<usize>,
    [x, y]: [usize; 2],
    args: &[Arg],
) -> Result<()> {
    let (module, threads) = attention_large(kernel, heads.dim, capability(cuda)?, window.is_some())
        .with_context(|| no_kernel(heads))?;
    launch(cuda, module, kernel, Grid::new([x, y, 1], threads), args)
}

fn tiles(seqs: &SeqLayout, heads: Heads) -> usize {
    seqs.ranges()
        .map(|(start, end)| (end - start).div_ceil(attention_tile(heads.dim)))
        .sum()
}

/// Addresses of the q, k and v parts of packed rows.
fn parts(packed: &Tensor, heads: Heads) -> Result<[Arg<'static>; 3]> {
    let q = pointer(packed, DType::BF16)?;
    let k = q + (heads.q * heads.dim) as u64 * BF16;
    let v = k + (heads.kv * heads.dim) as u64 * BF16;
    Ok([q, k, v].map(Arg::Pointer))
}

fn scale(heads: Heads) -> Arg<'static> {
    Arg::F32(1.0 / (heads.dim as f32).sqrt())
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
    let [q, k, v] = parts(&qkv, heads)?;
    let cu = u32(&seqs.offsets_dev)?;
    let args = [
        b16(&out)?,
        f32(&lse)?,
        q,
        k,
        v,
        b16(sinks)?,
        cu,
        cu,
        int(seqs.offsets.len() - 1)?,
        int(t)?,
        int(t)?,
        int(width)?,
        int(width)?,
        int(heads.q * heads.dim)?,
        int(heads.q)?,
        int(heads.kv)?,
        int(window.unwrap_or(0))?,
        scale(heads),
    ];
    let grid = [heads.q, tiles(seqs, heads)];
    launch_large(cuda, "attention_forward", heads, window, grid, &args)?;
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
    let module = module(heads)?;
    let delta = empty((heads.q, t), DType::F32, cuda)?;
    let args = [
        f32(&delta)?,
        b16(&saved.out)?,
        b16(&dout)?,
        int(t)?,
        int(heads.q)?,
    ];
    let grid = Grid::new([(t * heads.q).div_ceil(128), 1, 1], 128);
    launch(cuda, module, "attention_delta", grid, &args)?;

    let dqkv = empty((t, width), DType::BF16, cuda)?;
    let ([dq, dk, dv], [q, k, v]) = (parts(&dqkv, heads)?, parts(&qkv, heads)?);
    let common = [
        q,
        k,
        v,
        b16(&dout)?,
        f32(&saved.lse)?,
        f32(&delta)?,
        u32(&seqs.offsets_dev)?,
        int(seqs.offsets.len() - 1)?,
        int(t)?,
        int(width)?,
        int(heads.q * heads.dim)?,
        int(heads.q)?,
        int(heads.kv)?,
        int(window.unwrap_or(0))?,
        scale(heads),
    ];
    let tiles = tiles(seqs, heads);
    let args = [[dk, dv].as_slice(), &common].concat();
    let grid = [heads.kv, tiles];
    launch_large(cuda, "attention_backward_kv", heads, window, grid, &args)?;
    let args = [[dq].as_slice(), &common].concat();
    let grid = [heads.q, tiles];
    launch_large(cuda, "attention_backward_q", heads, window, grid, &args)?;

    let dsinks = empty(heads.q, DType::F32, cuda)?;
    let args = [
        f32(&dsinks)?,
        f32(&saved.lse)?,
        f32(&delta)?,
        b16(sinks)?,
        int(t)?,
    ];
    launch(
        cuda,
        module,
        "attention_sink_grad",
        Grid::new([heads.q, 1, 1], 256),
        &args,
    )?;
    Ok((dqkv, dsinks))
}

/// New queries over a cache.
pub fn cached(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    sinks: &Tensor,
    heads: Heads,
    window: Option<usize>,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let ((tq, width), (tk, kv_width)) = (q.dims2()?, keys.dims2()?);
    let (q, keys, values) = (q.contiguous()?, keys.contiguous()?, values.contiguous()?);
    let module = module(heads)?;
    let out = empty((tq, width), DType::BF16, cuda)?;
    let [q_head, kv_head] = [int(heads.q)?, int(heads.kv)?];
    let window_arg = int(window.unwrap_or(0))?;
    if tq > 8 {
        let none = Arg::Pointer(0);
        let args = [
            b16(&out)?,
            none,
            b16(&q)?,
            b16(&keys)?,
            b16(&values)?,
            b16(sinks)?,
            none,
            none,
            int(1)?,
            int(tq)?,
            int(tk)?,
            int(width)?,
            int(kv_width)?,
            int(width)?,
            q_head,
            kv_head,
            window_arg,
            scale(heads),
        ];
        let grid = [heads.q, tq.div_ceil(attention_tile(heads.dim))];
        launch_large(cuda, "attention_forward", heads, window, grid, &args)?;
        return Ok(out);
    }
    let seen = window.map_or(tk, |window| window.min(tk));
    let splits = seen.div_ceil(256).clamp(1, 64);
    let partial = empty((tq * heads.q, splits, heads.dim + 2), DType::F32, cuda)?;
    let args = [
        f32(&partial)?,
        b16(&q)?,
        b16(&keys)?,
        b16(&values)?,
        int(tq)?,
        int(tk)?,
        int(width)?,
        int(kv_width)?,
        q_head,
        kv_head,
        window_arg,
        scale(heads),
        int(splits)?,
    ];
    launch(
        cuda,
        module,
        "attention_decode",
        Grid::new([heads.q, splits, tq], 128),
        &args,
    )?;
    let args = [
        b16(&out)?,
        f32(&partial)?,
        b16(sinks)?,
        q_head,
        int(splits)?,
    ];
    let grid = Grid::new([tq * heads.q, 1, 1], heads.dim as u32);
    launch(cuda, module, "attention_decode_combine", grid, &args)?;
    Ok(out)
}
