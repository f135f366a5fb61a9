//! A warp for each row; the gradient by the weight in two steps, so that its sum has a fixed order.

use crate::ops::cuda::{empty, input, optional_input, output};
use anyhow::{Result, ensure};
use apus_kernels::{
    rms_norm_backward, rms_norm_forward, rms_norm_rstd, rms_norm_weight_grad, sum_rows,
};
use candle_core::{CudaDevice, DType, Tensor};

const ROWS_PER_BLOCK: usize = 256;

/// Normalises rows.
pub fn forward(x: &Tensor, w: &Tensor, eps: f64, cuda: &CudaDevice) -> Result<Tensor> {
    let y = empty(x.dims2()?, DType::BF16, cuda)?;
    norm([&y, &y], x, None, w, eps, cuda)?;
    Ok(y)
}

/// Sum and its normed rows.
pub fn forward_sum(
    x: &Tensor,
    delta: &Tensor,
    w: &Tensor,
    eps: f64,
    cuda: &CudaDevice,
) -> Result<(Tensor, Tensor)> {
    let shape = x.dims2()?;
    ensure!(
        x.dims() == delta.dims(),
        "a norm of {:?} and {:?}",
        x.dims(),
        delta.dims()
    );
    let (sum, y) = (
        empty(shape, DType::BF16, cuda)?,
        empty(shape, DType::BF16, cuda)?,
    );
    norm([&y, &sum], x, Some(delta), w, eps, cuda)?;
    Ok((sum, y))
}

fn norm(
    [y, sum]: [&Tensor; 2],
    x: &Tensor,
    delta: Option<&Tensor>,
    w: &Tensor,
    eps: f64,
    cuda: &CudaDevice,
) -> Result<()> {
    let (rows, width) = x.dims2()?;
    let x = x.contiguous()?;
    let delta = delta.map(Tensor::contiguous).transpose()?;
    rms_norm_forward {
        y: output(y)?,
        sum: Some(output(sum)?),
        x: input(&x)?,
        delta: optional_input(delta.as_ref())?,
        w: input(w)?,
        rows,
        width,
        eps: eps as f32,
    }
    .launch(&cuda.cuda_stream())
}

/// Gradient by `x`.
pub fn backward(
    x: &Tensor,
    w: &Tensor,
    eps: f64,
    dy: &Tensor,
    add: Option<&Tensor>,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    let add = add.map(Tensor::contiguous).transpose()?;
    let dx = empty((rows, width), DType::BF16, cuda)?;
    rms_norm_backward {
        dx: output(&dx)?,
        x: input(&x)?,
        w: input(w)?,
        dy: input(&dy)?,
        add: optional_input(add.as_ref())?,
        rows,
        width,
        eps: eps as f32,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(dx)
}

/// Gradient by the weight.
pub fn weight_grad(x: &Tensor, eps: f64, dy: &Tensor, cuda: &CudaDevice) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    let rstd = empty(rows, DType::F32, cuda)?;
    rms_norm_rstd {
        rstd: output(&rstd)?,
        x: input(&x)?,
        rows,
        width,
        eps: eps as f32,
    }
    .launch(&cuda.cuda_stream())?;
    let blocks = rows.div_ceil(ROWS_PER_BLOCK);
    let partial = empty((blocks, width), DType::F32, cuda)?;
    rms_norm_weight_grad {
        partial: output(&partial)?,
        x: input(&x)?,
        dy: input(&dy)?,
        rstd: input(&rstd)?,
        rows,
        width,
        rows_per_block: ROWS_PER_BLOCK,
    }
    .launch(&cuda.cuda_stream())?;
    let out = empty(width, DType::F32, cuda)?;
    sum_rows {
        out: output(&out)?,
        x: input(&partial)?,
        rows: blocks,
        width,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(out)
}
