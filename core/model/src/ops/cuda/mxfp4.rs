//! See [`crate::ops::mxfp4`].

use super::launch::{Arg, Grid, b16, empty, int, launch, long, u8};
use anyhow::Result;
use apus_kernels::MXFP4;
use candle_core::{CudaDevice, DType, Tensor};

/// Unpacks all experts to bf16.
pub fn dequantize(blocks: &Tensor, scales: &Tensor, cuda: &CudaDevice) -> Result<Tensor> {
    let (e, o, g, _) = blocks.dims4()?;
    let (blocks, scales, each) = (blocks.contiguous()?, scales.contiguous()?, o * g * 32);
    let out = empty((e, o, g * 32), DType::BF16, cuda)?;
    let args = [
        b16(&out)?,
        u8(&blocks)?,
        u8(&scales)?,
        Arg::Pointer(0),
        long(each),
        int(e)?,
    ];
    let grid = Grid::new([each.div_ceil(8192), e, 1], 256);
    launch(cuda, &MXFP4, "mxfp4_dequantize", grid, &args)?;
    Ok(out)
}
