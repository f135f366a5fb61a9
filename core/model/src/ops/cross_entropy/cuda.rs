//! A block for each row; logits are bf16 or f32.

use super::CrossEntropy;
use crate::ops::cuda::{empty, input, output};
use anyhow::Result;
use apus_kernels::{Element, Float, cross_entropy_backward, cross_entropy_forward};
use candle_core::{CudaDevice, DType, Tensor, WithDType};
use half::bf16;

/// Computes loss, log-sum-exp and index of the greatest logit of each row.
pub fn forward(logits: &Tensor, labels: &Tensor, cuda: &CudaDevice) -> Result<CrossEntropy> {
    match logits.dtype() {
        DType::F32 => forward_of::<f32>(logits, labels, cuda),
        _ => forward_of::<bf16>(logits, labels, cuda),
    }
}

fn forward_of<T: Element + Float + WithDType>(
    logits: &Tensor,
    labels: &Tensor,
    cuda: &CudaDevice,
) -> Result<CrossEntropy> {
    let (n, v) = logits.dims2()?;
    let (logits, labels) = (logits.contiguous()?, labels.contiguous()?);
    let found = CrossEntropy {
        loss: empty(n, DType::F32, cuda)?,
        lse: empty(n, DType::F32, cuda)?,
        argmax: empty(n, DType::U32, cuda)?,
    };
    cross_entropy_forward::<T> {
        loss: output(&found.loss)?,
        lse: output(&found.lse)?,
        best: output(&found.argmax)?,
        logits: input(&logits)?,
        labels: input(&labels)?,
        vocab: v,
        rows: n,
    }
    .launch(&cuda.cuda_stream())?;
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
    match logits.dtype() {
        DType::F32 => backward_of::<f32>(logits, lse, labels, dloss, cuda),
        _ => backward_of::<bf16>(logits, lse, labels, dloss, cuda),
    }
}

fn backward_of<T: Element + Float + WithDType>(
    logits: &Tensor,
    lse: &Tensor,
    labels: &Tensor,
    dloss: &Tensor,
    cuda: &CudaDevice,
) -> Result<()> {
    let (n, v) = logits.dims2()?;
    let (lse, labels, dloss) = (lse.contiguous()?, labels.contiguous()?, dloss.contiguous()?);
    cross_entropy_backward::<T> {
        dlogits: output(logits)?,
        logits: input(logits)?,
        lse: input(&lse)?,
        labels: input(&labels)?,
        dloss: input(&dloss)?,
        vocab: v,
        rows: n,
    }
    .launch(&cuda.cuda_stream())
}
