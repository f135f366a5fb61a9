//! See [`crate::ops::permute`].

use super::launch::{Arg, Grid, b16, empty, f32, int, launch, long, u32};
use crate::ops::router::RoutePlan;
use anyhow::Result;
use apus_kernels::PERMUTE;
use candle_core::{CudaDevice, DType, Tensor};

/// Rows of tokens in the order of experts.
pub fn gather(x: &Tensor, plan: &RoutePlan, cuda: &CudaDevice) -> Result<Tensor> {
    let ((t, h), n) = (x.dims2()?, plan.rows());
    let x = x.contiguous()?;
    let y = empty((n, h), DType::BF16, cuda)?;
    let args = [
        b16(&y)?,
        b16(&x)?,
        u32(&plan.inverse)?,
        long(t),
        int(h)?,
        int(plan.k)?,
    ];
    launch(cuda, &PERMUTE, "permute_gather", Grid::rows(t), &args)?;
    Ok(y)
}

/// Sum of each token's rows.
pub fn gather_backward(
    dxs: &Tensor,
    plan: &RoutePlan,
    add: Option<&Tensor>,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let add = add.map(Tensor::contiguous).transpose()?;
    let (n, h) = dxs.dims2()?;
    let (t, dxs) = (n / plan.k, dxs.contiguous()?);
    let dx = empty((t, h), DType::BF16, cuda)?;
    let args = [
        b16(&dx)?,
        add.as_ref().map_or(Ok(Arg::Pointer(0)), b16)?,
        b16(&dxs)?,
        u32(&plan.inverse)?,
        long(t),
        int(h)?,
        int(plan.k)?,
    ];
    launch(
        cuda,
        &PERMUTE,
        "permute_gather_backward",
        Grid::rows(t),
        &args,
    )?;
    Ok(dx)
}

/// Weighted sum of each token's rows.
pub fn combine(
    y: &Tensor,
    weights: &Tensor,
    plan: &RoutePlan,
    residual: Option<&Tensor>,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let residual = residual.map(Tensor::contiguous).transpose()?;
    let (n, h) = y.dims2()?;
    let t = n / plan.k;
    let out = empty((t, h), DType::BF16, cuda)?;
    let args = [
        b16(&out)?,
        residual.as_ref().map_or(Ok(Arg::Pointer(0)), b16)?,
        b16(y)?,
        f32(weights)?,
        u32(&plan.inverse)?,
        long(t),
        int(h)?,
        int(plan.k)?,
    ];
    launch(cuda, &PERMUTE, "permute_combine", Grid::rows(t), &args)?;
    Ok(out)
}
