//! The mask is computed where it is applied.

use super::{Draws, scale, threshold};
use crate::ops::cuda::{empty, input, output};
use anyhow::Result;
use apus_kernels::{Element, Float, dropout};
use candle_core::{CudaDevice, DType, Tensor, WithDType};
use half::bf16;

/// Drops elements by a seed and the keys of tokens.
pub fn apply(x: &Tensor, p: f32, draws: &Draws, cuda: &CudaDevice) -> Result<Tensor> {
    match x.dtype() {
        DType::F32 => apply_to::<f32>(x, p, draws, cuda),
        _ => apply_to::<bf16>(x, p, draws, cuda),
    }
}

fn apply_to<T: Element + Float + WithDType>(
    x: &Tensor,
    p: f32,
    draws: &Draws,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (rows, width) = x.dims2()?;
    let y = empty(x.dims(), x.dtype(), cuda)?;
    dropout::<T> {
        y: output(&y)?,
        x: input(&x)?,
        keys: input(&draws.keys)?,
        width,
        seed: draws.seed,
        threshold: threshold(p),
        scale: scale(p),
        rows,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(y)
}
