//! See [`crate::ops::dropout`].

use super::launch::{Arg, Grid, b16, empty, f32, launch, long};
use crate::ops::dropout::{scale, threshold};
use anyhow::Result;
use apus_kernels::RANDOM;
use candle_core::{CudaDevice, DType, Tensor};

/// Drops elements by a seed.
pub fn apply(x: &Tensor, p: f32, seed: u64, cuda: &CudaDevice) -> Result<Tensor> {
    let (x, count) = (x.contiguous()?, x.elem_count());
    let y = empty(x.dims(), x.dtype(), cuda)?;
    let (kernel, [to, from]) = match x.dtype() {
        DType::F32 => ("dropout_f32", [f32(&y)?, f32(&x)?]),
        _ => ("dropout_bf16", [b16(&y)?, b16(&x)?]),
    };
    let args = [
        to,
        from,
        long(count),
        Arg::U64(seed),
        Arg::U32(threshold(p)),
        Arg::F32(scale(p)),
    ];
    launch(cuda, &RANDOM, kernel, Grid::elements(count), &args)?;
    Ok(y)
}
