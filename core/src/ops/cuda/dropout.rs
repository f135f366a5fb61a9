//! See [`crate::ops::dropout`].

use super::launch::{Arg, Grid, b16, empty, launch, long};
use crate::ops::dropout::threshold;
use anyhow::Result;
use apus_kernels::RANDOM;
use candle_core::{CudaDevice, DType, Tensor};

/// Drops elements by a seed.
pub fn apply(x: &Tensor, p: f32, seed: u64, cuda: &CudaDevice) -> Result<Tensor> {
    let (x, count) = (x.contiguous()?, x.elem_count());
    let y = empty(x.dims(), DType::BF16, cuda)?;
    let args = [
        b16(&y)?,
        b16(&x)?,
        long(count),
        Arg::U64(seed),
        Arg::U32(threshold(p)),
        Arg::F32(1.0 / (1.0 - p)),
    ];
    launch(cuda, &RANDOM, "dropout_bf16", Grid::elements(count), &args)?;
    Ok(y)
}
