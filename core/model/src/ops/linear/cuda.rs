//! cuBLAS for the gradient by the matrix, whose result is f32, and our kernels for the bias.

use crate::ops::cuda::{Operand, empty, gemm, input, output, pointer};
use anyhow::Result;
use apus_kernels as kernels;
use candle_core::{CudaDevice, DType, Device, Tensor};

/// Adds a bias to a fresh result in place.
pub fn add_bias(y: Tensor, bias: &Tensor, cuda: &CudaDevice) -> Result<Tensor> {
    add_bias_in_place(&y, bias, cuda)?;
    Ok(y)
}

/// Adds a bias to rows `y`, which nobody else may read.
pub fn add_bias_in_place(y: &Tensor, bias: &Tensor, cuda: &CudaDevice) -> Result<()> {
    let (rows, width) = y.dims2()?;
    kernels::add_bias {
        y: output(y)?,
        bias: input(bias)?,
        rows,
        width,
    }
    .launch(&cuda.cuda_stream())
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
    kernels::column_sum {
        out: output(&out)?,
        x: input(&dy)?,
        rows,
        width,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(out)
}
