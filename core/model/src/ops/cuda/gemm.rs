//! Matrix products by cuBLAS on raw parts of tensors: bf16 in, bf16 or f32 out, sums in f32.

use anyhow::{Context, Result};
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::{CudaDevice, DType};
use std::ffi::c_void;

/// A row-major matrix on the device, or its transpose.
#[derive(Debug, Clone, Copy)]
pub struct Operand {
    /// The address of its bf16 elements.
    pub pointer: u64,
    /// Whether memory holds the transpose.
    pub transposed: bool,
}

/// Computes `c [m, n] = a [m, k] b [k, n]`, row-major, where `c` is an address and `out` its type.
pub fn gemm(
    cuda: &CudaDevice,
    [m, n, k]: [usize; 3],
    a: Operand,
    b: Operand,
    (c, out): (u64, DType),
) -> Result<()> {
    if m * n == 0 || k == 0 {
        return Ok(());
    }
    let op = |operand: Operand| match operand.transposed {
        true => sys::cublasOperation_t::CUBLAS_OP_T,
        false => sys::cublasOperation_t::CUBLAS_OP_N,
    };
    let c_type = match out {
        DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
        _ => sys::cudaDataType_t::CUDA_R_16BF,
    };
    let bf16 = sys::cudaDataType_t::CUDA_R_16BF;
    let lda = if a.transposed { m } else { k };
    let ldb = if b.transposed { k } else { n };
    let (alpha, beta) = (1f32, 0f32);
    let blas = cuda.cublas_handle();
    // cuBLAS is column-major: the transposed product b^T a^T has the same memory.
    // SAFETY: the callers' operands lie inside tensors of these sizes, on this device, and live until
    // the stream is past this call; alpha and beta are read before it returns.
    unsafe {
        result::gemm_ex(
            *blas.handle(),
            op(b),
            op(a),
            i32::try_from(n)?,
            i32::try_from(m)?,
            i32::try_from(k)?,
            (&raw const alpha).cast::<c_void>(),
            b.pointer as *const c_void,
            bf16,
            i32::try_from(ldb)?,
            a.pointer as *const c_void,
            bf16,
            i32::try_from(lda)?,
            (&raw const beta).cast::<c_void>(),
            c as *mut c_void,
            c_type,
            i32::try_from(n)?,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .with_context(|| format!("cuBLAS: product of {m} x {k} and {k} x {n}"))
}
