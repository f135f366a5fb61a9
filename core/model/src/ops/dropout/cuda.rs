//! The mask is computed where it is applied.

use super::{scale, threshold};
use crate::ops::cuda::{empty, input, output};
use anyhow::Result;
use apus_kernels::{Element, Float, dropout};
use candle_core::{CudaDevice, DType, Tensor, WithDType};
use half::bf16;

/// Drops elements by a seed.
pub fn apply(x: &Tensor, p: f32, seed: u64, cuda: &CudaDevice) -> Result<Tensor> {
    match x.dtype() {
        DType::F32 => apply_to::<f32>(x, p, seed, cuda),
        _ => apply_to::<bf16>(x, p, seed, cuda),
    }
}

fn apply_to<T: Element + Float + WithDType>(
    x: &Tensor,
    p: f32,
    seed: u64,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let y = empty(x.dims(), x.dtype(), cuda)?;
    dropout::<T> {
        y: output(&y)?,
        x: input(&x)?,
        count: x.elem_count(),
        seed,
        threshold: threshold(p),
        scale: scale(p),
    }
    .launch(&cuda.cuda_stream())?;
    Ok(y)
}
