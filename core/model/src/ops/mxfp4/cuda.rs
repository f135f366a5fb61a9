//! Unpacks on the card, where the packed experts are.

use crate::ops::cuda::{empty, input, output};
use anyhow::Result;
use apus_kernels::mxfp4_dequantize;
use candle_core::{CudaDevice, DType, Tensor};

/// Unpacks all experts to bf16.
pub fn dequantize(blocks: &Tensor, scales: &Tensor, cuda: &CudaDevice) -> Result<Tensor> {
    let (e, o, g, _) = blocks.dims4()?;
    let (blocks, scales) = (blocks.contiguous()?, scales.contiguous()?);
    let out = empty((e, o, g * 32), DType::BF16, cuda)?;
    mxfp4_dequantize {
        out: output(&out)?,
        blocks: input(&blocks)?,
        scales: input(&scales)?,
        experts: None,
        per_expert: o * g * 32,
        n: e,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(out)
}
