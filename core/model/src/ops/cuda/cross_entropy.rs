//! See [`crate::ops::cross_entropy`].

use super::launch::{Grid, b16, empty, f32, int, launch, u32};
use crate::ops::cross_entropy::CrossEntropy;
use anyhow::Result;
use apus_kernels::CROSS_ENTROPY;
use candle_core::{CudaDevice, DType, Tensor};

/// Computes loss, log-sum-exp and index of the greatest logit of each row.
pub fn forward(logits: &Tensor, labels: &Tensor, cuda: &CudaDevice) -> Result<CrossEntropy> {
    let (n, v) = logits.dims2()?;
    let (logits, labels) = (logits.contiguous()?, labels.contiguous()?);
    let found = CrossEntropy {
        loss: empty(n, DType::F32, cuda)?,
        lse: empty(n, DType::F32, cuda)?,
        argmax: empty(n, DType::U32, cuda)?,
    };
    let (kernel, pointer) = match logits.dtype() {
        DType::F32 => ("cross_entropy_forward_f32", f32(&logits)?),
        _ => ("cross_entropy_forward_bf16", b16(&logits)?),
    };
    let args = [
        f32(&found.loss)?,
        f32(&found.lse)?,
        u32(&found.argmax)?,
        pointer,
        u32(&labels)?,
        int(v)?,
    ];
    launch(
        cuda,
        &CROSS_ENTROPY,
        kernel,
        Grid::new([n, 1, 1], 512),
        &args,
    )?;
    Ok(found)
}

/// Writes the gradient by the logits over the logits.
pub fn backward(
    logits: &Tensor,
    lse: &Tensor,
    labels: &Tensor,
    dloss: &Tensor,
    cuda: &CudaDevice,
) -> Result<()> {
    let (n, v) = logits.dims2()?;
    let (lse, labels, dloss) = (lse.contiguous()?, labels.contiguous()?, dloss.contiguous()?);
    let (kernel, pointer) = match logits.dtype() {
        DType::F32 => ("cross_entropy_backward_f32", f32(logits)?),
        _ => ("cross_entropy_backward_bf16", b16(logits)?),
    };
    let args = [
        pointer,
        pointer,
        f32(&lse)?,
        u32(&labels)?,
        f32(&dloss)?,
        int(v)?,
    ];
    launch(
        cuda,
        &CROSS_ENTROPY,
        kernel,
        Grid::new([n, v.div_ceil(8192), 1], 256),
        &args,
    )
}
