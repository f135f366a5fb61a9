//! See [`crate::ops::cross_entropy`].

use super::launch::{Grid, b16, empty, f32, int, launch, u32};
use anyhow::Result;
use apus_kernels::CROSS_ENTROPY;
use candle_core::{CudaDevice, DType, Tensor};

/// Loss and log-sum-exp of each row.
pub fn forward(logits: &Tensor, labels: &Tensor, cuda: &CudaDevice) -> Result<(Tensor, Tensor)> {
    let (n, v) = logits.dims2()?;
    let logits = logits.contiguous()?;
    let (loss, lse) = (empty(n, DType::F32, cuda)?, empty(n, DType::F32, cuda)?);
    let (kernel, pointer) = match logits.dtype() {
        DType::F32 => ("cross_entropy_forward_f32", f32(&logits)?),
        _ => ("cross_entropy_forward_bf16", b16(&logits)?),
    };
    let args = [f32(&loss)?, f32(&lse)?, pointer, u32(labels)?, int(v)?];
    launch(
        cuda,
        &CROSS_ENTROPY,
        kernel,
        Grid::new([n, 1, 1], 512),
        &args,
    )?;
    Ok((loss, lse))
}

/// Gradient by the logits.
pub fn backward(
    logits: &Tensor,
    lse: &Tensor,
    labels: &Tensor,
    dloss: &Tensor,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let (n, v) = logits.dims2()?;
    let (logits, dloss) = (logits.contiguous()?, dloss.contiguous()?);
    let out = empty((n, v), logits.dtype(), cuda)?;
    let (kernel, [to, from]) = match logits.dtype() {
        DType::F32 => ("cross_entropy_backward_f32", [f32(&out)?, f32(&logits)?]),
        _ => ("cross_entropy_backward_bf16", [b16(&out)?, b16(&logits)?]),
    };
    let args = [to, from, f32(lse)?, u32(labels)?, f32(&dloss)?, int(v)?];
    launch(
        cuda,
        &CROSS_ENTROPY,
        kernel,
        Grid::new([n, v.div_ceil(8192), 1], 256),
        &args,
    )?;
    Ok(out)
}
