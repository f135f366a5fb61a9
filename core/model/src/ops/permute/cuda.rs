//! A warp for each token.

use crate::ops::cuda::{empty, input, optional_input, output};
use crate::ops::router::RoutePlan;
use anyhow::Result;
use apus_kernels::{permute_combine, permute_gather, permute_gather_backward};
use candle_core::{CudaDevice, DType, Tensor};

/// Rows of tokens in the order of experts.
pub fn gather(x: &Tensor, plan: &RoutePlan, cuda: &CudaDevice) -> Result<Tensor> {
    let ((t, h), n) = (x.dims2()?, plan.rows());
    let x = x.contiguous()?;
    let y = empty((n, h), DType::BF16, cuda)?;
    permute_gather {
        y: output(&y)?,
        x: input(&x)?,
        inverse: input(&plan.inverse)?,
        tokens: t,
        width: h,
        k: plan.k,
    }
    .launch(&cuda.cuda_stream())?;
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
    permute_gather_backward {
        dx: output(&dx)?,
        add: optional_input(add.as_ref())?,
        dy: input(&dxs)?,
        inverse: input(&plan.inverse)?,
        tokens: t,
        width: h,
        k: plan.k,
    }
    .launch(&cuda.cuda_stream())?;
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
    permute_combine {
        out: output(&out)?,
        residual: optional_input(residual.as_ref())?,
        y: input(y)?,
        weights: input(weights)?,
        inverse: input(&plan.inverse)?,
        tokens: t,
        width: h,
        k: plan.k,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(out)
}
