//! A thread makes the numbers of its counters.

use crate::ops::cuda::{empty, output};
use anyhow::Result;
use apus_kernels::{Element, Float, fill_bytes, fill_normal};
use candle_core::{CudaDevice, DType, Shape, Tensor, WithDType};
use half::bf16;

/// Normal values.
pub fn normal(
    shape: &Shape,
    std: f32,
    seed: (u64, u64),
    dtype: DType,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let out = empty(shape, dtype, cuda)?;
    match dtype {
        DType::F32 => fill::<f32>(&out, std, seed, cuda)?,
        _ => fill::<bf16>(&out, std, seed, cuda)?,
    }
    Ok(out)
}

fn fill<T: Element + Float + WithDType>(
    out: &Tensor,
    std: f32,
    (seed, stream): (u64, u64),
    cuda: &CudaDevice,
) -> Result<()> {
    fill_normal::<T> {
        y: output(out)?,
        count: out.elem_count(),
        seed,
        stream,
        first: 0,
        mean: 0.0,
        std,
    }
    .launch(&cuda.cuda_stream())
}

/// Bytes.
pub fn bytes(
    shape: &Shape,
    (low, span): (u8, u32),
    (seed, stream): (u64, u64),
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let out = empty(shape, DType::U8, cuda)?;
    fill_bytes {
        y: output(&out)?,
        count: shape.elem_count(),
        seed,
        stream,
        first: 0,
        low: u32::from(low),
        span,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(out)
}
