//! See [`crate::ops::rms_norm`].

use super::launch::{Arg, Grid, b16, empty, f32, int, launch};
use anyhow::{Result, ensure};
use apus_kernels::{REDUCE, RMS_NORM};
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
    let args = [
        b16(y)?,
        b16(sum)?,
        b16(&x)?,
        delta.as_ref().map_or(Ok(Arg::Pointer(0)), b16)?,
        b16(w)?,
        int(rows)?,
        int(width)?,
        Arg::F32(eps as f32),
    ];
    launch(cuda, &RMS_NORM, "rms_norm_forward", Grid::rows(rows), &args)
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
    let args = [
        b16(&dx)?,
        b16(&x)?,
        b16(w)?,
        b16(&dy)?,
        add.as_ref().map_or(Ok(Arg::Pointer(0)), b16)?,
        int(rows)?,
        int(width)?,
        Arg::F32(eps as f32),
    ];
    launch(
        cuda,
        &RMS_NORM,
        "rms_norm_backward",
        Grid::rows(rows),
        &args,
    )?;
    Ok(dx)
}

/// Gradient by the weight.
pub fn weight_grad(x: &Tensor, eps: f64, dy: &Tensor, cuda: &CudaDevice) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    let rstd = empty(rows, DType::F32, cuda)?;
    let args = [
        f32(&rstd)?,
        b16(&x)?,
        int(rows)?,
        int(width)?,
        Arg::F32(eps as f32),
    ];
    launch(cuda, &RMS_NORM, "rms_norm_rstd", Grid::rows(rows), &args)?;
    let blocks = rows.div_ceil(ROWS_PER_BLOCK);
    let partial = empty((blocks, width), DType::F32, cuda)?;
    let args = [
        f32(&partial)?,
        b16(&x)?,
        b16(&dy)?,
        f32(&rstd)?,
        int(rows)?,
        int(width)?,
        int(ROWS_PER_BLOCK)?,
    ];
    let grid = Grid::new([width.div_ceil(256), blocks, 1], 256);
    launch(cuda, &RMS_NORM, "rms_norm_weight_grad", grid, &args)?;
    let out = empty(width, DType::F32, cuda)?;
    let args = [f32(&out)?, f32(&partial)?, int(blocks)?, int(width)?];
    launch(
        cuda,
        &REDUCE,
        "sum_rows",
        Grid::new([width.div_ceil(256), 1, 1], 256),
        &args,
    )?;
    Ok(out)
}
