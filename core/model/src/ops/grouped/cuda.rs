//! One cuBLAS call for each group that has rows, straight into the result.

use crate::ops::Groups;
use crate::ops::cuda::{Operand, empty, gemm, input, output, pointer};
use anyhow::{Result, bail};
use apus_kernels::{grouped_add_bias, grouped_bias_grad};
use candle_core::{CudaDevice, DType, Device, Tensor};

const BF16: u64 = 2;
const F32: u64 = 4;

/// The matrices' address, whether they are transposed, and what keeps them alive.
fn matrices(w: &Tensor) -> Result<(Tensor, bool)> {
    let turned = w.transpose(1, 2)?;
    match turned.is_contiguous() && !w.is_contiguous() {
        true => Ok((turned, true)),
        false => Ok((w.contiguous()?, false)),
    }
}

/// Rows times the matrix of their group.
pub fn separate(x: &Tensor, w: &Tensor, groups: &Groups, cuda: &CudaDevice) -> Result<Tensor> {
    let ((n, i), (_, _, o)) = (x.dims2()?, w.dims3()?);
    let x = x.contiguous()?;
    let (w, transposed) = matrices(w)?;
    let out = empty((n, o), DType::BF16, cuda)?;
    let [x0, w0, y0] = [
        pointer(&x, DType::BF16)?,
        pointer(&w, DType::BF16)?,
        pointer(&out, DType::BF16)?,
    ];
    for (g, rows) in groups.filled()? {
        let a = Operand {
            pointer: x0 + (rows.start * i) as u64 * BF16,
            transposed: false,
        };
        let b = Operand {
            pointer: w0 + (g * i * o) as u64 * BF16,
            transposed,
        };
        let y = y0 + (rows.start * o) as u64 * BF16;
        gemm(cuda, [rows.len(), o, i], a, b, (y, DType::BF16))?;
    }
    Ok(out)
}

/// Each group's `x^T dy`, f32.
pub fn weight_grad(x: &Tensor, dy: &Tensor, groups: &Groups, cuda: &CudaDevice) -> Result<Tensor> {
    let ((_, i), (_, o)) = (x.dims2()?, dy.dims2()?);
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    let device = Device::Cuda(cuda.clone());
    let out = Tensor::zeros((groups.count(), i, o), DType::F32, &device)?;
    let [x0, d0, w0] = [
        pointer(&x, DType::BF16)?,
        pointer(&dy, DType::BF16)?,
        pointer(&out, DType::F32)?,
    ];
    for (g, rows) in groups.filled()? {
        let a = Operand {
            pointer: x0 + (rows.start * i) as u64 * BF16,
            transposed: true,
        };
        let b = Operand {
            pointer: d0 + (rows.start * o) as u64 * BF16,
            transposed: false,
        };
        let w = w0 + (g * i * o) as u64 * F32;
        gemm(cuda, [i, o, rows.len()], a, b, (w, DType::F32))?;
    }
    Ok(out)
}

/// Adds each group's bias in place.
pub fn add_bias(y: Tensor, bias: &Tensor, groups: &Groups, cuda: &CudaDevice) -> Result<Tensor> {
    let ((n, width), (experts, _)) = (y.dims2()?, bias.dims2()?);
    if experts != groups.count() {
        bail!("{experts} biases for {} groups", groups.count());
    }
    grouped_add_bias {
        y: output(&y)?,
        bias: input(bias)?,
        offsets: input(groups.offsets())?,
        rows: n,
        width,
        experts,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(y)
}

/// Sum of each group's rows, f32.
pub fn bias_grad(dy: &Tensor, groups: &Groups, cuda: &CudaDevice) -> Result<Tensor> {
    let (_, width) = dy.dims2()?;
    let count = groups.count();
    let dy = dy.contiguous()?;
    let out = empty((count, width), DType::F32, cuda)?;
    grouped_bias_grad {
        db: output(&out)?,
        dy: input(&dy)?,
        offsets: input(groups.offsets())?,
        width,
        experts: count,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(out)
}
