//! See [`crate::ops::fill`].

use super::launch::{Arg, Grid, b16, empty, f32, launch, long, u8};
use anyhow::Result;
use apus_kernels::RANDOM;
use candle_core::{CudaDevice, DType, Shape, Tensor};

/// Normal values.
pub fn normal(
    shape: &Shape,
    std: f32,
    (seed, stream): (u64, u64),
    dtype: DType,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let count = shape.elem_count();
    let out = empty(shape, dtype, cuda)?;
    let (kernel, pointer) = match dtype {
        DType::F32 => ("fill_normal_f32", f32(&out)?),
        _ => ("fill_normal_bf16", b16(&out)?),
    };
    let args = [
        pointer,
        long(count),
        Arg::U64(seed),
        Arg::U64(stream),
        Arg::U64(0),
        Arg::F32(0.0),
        Arg::F32(std),
    ];
    launch(cuda, &RANDOM, kernel, Grid::elements(count), &args)?;
    Ok(out)
}

/// Bytes.
pub fn bytes(
    shape: &Shape,
    (low, span): (u8, u32),
    (seed, stream): (u64, u64),
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let count = shape.elem_count();
    let out = empty(shape, DType::U8, cuda)?;
    let args = [
        u8(&out)?,
        long(count),
        Arg::U64(seed),
        Arg::U64(stream),
        Arg::U64(0),
        Arg::U32(u32::from(low)),
        Arg::U32(span),
    ];
    launch(cuda, &RANDOM, "fill_bytes", Grid::elements(count), &args)?;
    Ok(out)
}
