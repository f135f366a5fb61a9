//! See [`crate::ops::rope`].

use super::launch::{Arg, Grid, b16, empty, f32, int, launch, long, u32};
use crate::ops::Heads;
use crate::ops::rope::RopeTable;
use anyhow::Result;
use apus_kernels::ROPE;
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
    let args = [
        b16(&y)?,
        b16(&qkv)?,
        f32(&table.cos)?,
        f32(&table.sin)?,
        u32(positions)?,
        long(t),
        int(heads.q)?,
        int(heads.kv)?,
        int(heads.dim)?,
        Arg::I32(i32::from(transpose)),
    ];
    let grid = Grid::new([(t * width / 16).div_ceil(256), 1, 1], 256);
    launch(cuda, &ROPE, "rope_apply", grid, &args)?;
    Ok(y)
}
