//! See [`crate::ops::swiglu`].

use super::launch::{Arg, Grid, b16, empty, launch, long};
use anyhow::Result;
use apus_kernels::SWIGLU;
use candle_core::{CudaDevice, DType, Tensor};

/// The activation.
pub fn forward(gate_up: &Tensor, limit: f32, cuda: &CudaDevice) -> Result<Tensor> {
    let (n, f2) = gate_up.dims2()?;
    let (gate_up, count) = (gate_up.contiguous()?, n * f2 / 2);
    let h = empty((n, f2 / 2), DType::BF16, cuda)?;
    let args = [b16(&h)?, b16(&gate_up)?, long(count), Arg::F32(limit)];
    launch(
        cuda,
        &SWIGLU,
        "swiglu_forward",
        Grid::elements(count),
        &args,
    )?;
    Ok(h)
}

/// Its gradient.
pub fn backward(gate_up: &Tensor, limit: f32, dy: &Tensor, cuda: &CudaDevice) -> Result<Tensor> {
    let (n, f2) = gate_up.dims2()?;
    let (gate_up, dy, count) = (gate_up.contiguous()?, dy.contiguous()?, n * f2 / 2);
    let out = empty((n, f2), DType::BF16, cuda)?;
    let args = [
        b16(&out)?,
        b16(&gate_up)?,
        b16(&dy)?,
        long(count),
        Arg::F32(limit),
    ];
    launch(
        cuda,
        &SWIGLU,
        "swiglu_backward",
        Grid::elements(count),
        &args,
    )?;
    Ok(out)
}
