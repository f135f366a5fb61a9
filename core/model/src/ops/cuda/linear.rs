//! See [`crate::ops::linear`].

use super::gemm::{Operand, gemm};
use super::launch::{Grid, b16, empty, f32, int, launch, long, pointer};
use anyhow::Result;
use apus_kernels::BIAS;
use candle_core::{CudaDevice, DType, Device, Tensor};

/// Adds a bias to a fresh result in place.
pub fn add_bias(y: Tensor, bias: &Tensor, cuda: &CudaDevice) -> Result<Tensor> {
    let (rows, width) = y.dims2()?;
    let args = [b16(&y)?, b16(bias)?, long(rows), int(width)?];
    launch(cuda, &BIAS, "add_bias", Grid::rows(rows), &args)?;
    Ok(y)
}

/// `dy^T x` with f32 sums and result.
pub fn weight_grad(x: &Tensor, dy: &Tensor, cuda: &CudaDevice) -> Result<Tensor> {
    let ((t, i), (_, o)) = (x.dims2()?, dy.dims2()?);
    if t == 0 {
        let device = Device::Cuda(cuda.clone());
        return Ok(Tensor::zeros((o, i), DType::F32, &device)?);
    }
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    let out = empty((o, i), DType::F32, cuda)?;
    let a = Operand {
        pointer: pointer(&dy, DType::BF16)?,
        transposed: true,
    };
    let b = Operand {
        pointer: pointer(&x, DType::BF16)?,
        transposed: false,
    };
    gemm(
        cuda,
        [o, i, t],
        a,
        b,
        (pointer(&out, DType::F32)?, DType::F32),
    )?;
    Ok(out)
}

/// Sum of rows in f32.
pub fn bias_grad(dy: &Tensor, cuda: &CudaDevice) -> Result<Tensor> {
    let (rows, width) = dy.dims2()?;
    let dy = dy.contiguous()?;
    let out = empty(width, DType::F32, cuda)?;
    let args = [f32(&out)?, b16(&dy)?, long(rows), int(width)?];
    launch(
        cuda,
        &BIAS,
        "column_sum",
        Grid::new([width.div_ceil(64), 1, 1], 256),
        &args,
    )?;
    Ok(out)
}
