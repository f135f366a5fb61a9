//! A thread for each sixteen elements of a row.

use super::RopeTable;
use crate::ops::Heads;
use crate::ops::cuda::{empty, input, output};
use anyhow::Result;
use apus_kernels::rope_apply;
use candle_core::{CudaDevice, DType, Tensor};

/// Rotates queries and keys.
pub fn apply(
    qkv: &Tensor,
    table: &RopeTable,
    positions: &Tensor,
    heads: Heads,
    transpose: bool,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let (t, width) = qkv.dims2()?;
    let qkv = qkv.contiguous()?;
    let y = empty((t, width), DType::BF16, cuda)?;
    rope_apply {
        y: output(&y)?,
        x: input(&qkv)?,
        cos: input(&table.cos)?,
        sin: input(&table.sin)?,
        positions: input(positions)?,
        tokens: t,
        q_heads: heads.q,
        kv_heads: heads.kv,
        dim: heads.dim,
        transpose: usize::from(transpose),
    }
    .launch(&cuda.cuda_stream())?;
    Ok(y)
}
