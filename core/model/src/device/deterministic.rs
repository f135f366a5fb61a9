//! Makes cuBLAS deterministic: by default the sums of a product may depend on atomics and on how much workspace was
//! available. Everything else on a card is our kernels and candle's, which add in a fixed order.

use anyhow::{Result, ensure};
use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::cublas::sys;
use std::ffi::c_void;

/// The size of the workspace that cuBLAS takes by default on Hopper; older cards use less of it.
const WORKSPACE: usize = 32 << 20;

/// Forbids atomics and gives the device's handle a workspace of its own, for as long as the process lives.
pub fn cublas(cuda: &CudaDevice) -> Result<()> {
    let blas = cuda.cublas_handle();
    let mode = sys::cublasAtomicsMode_t::CUBLAS_ATOMICS_NOT_ALLOWED;
    // SAFETY: the handle lives as long as the device.
    check(unsafe { sys::cublasSetAtomicsMode(*blas.handle(), mode) })?;
    let workspace = cuda.alloc_zeros::<u8>(WORKSPACE)?.leak();
    // SAFETY: the memory is never freed, and all work of the handle goes to one stream.
    check(unsafe {
        sys::cublasSetWorkspace_v2(*blas.handle(), workspace as *mut c_void, WORKSPACE)
    })
}

fn check(status: sys::cublasStatus_t) -> Result<()> {
    ensure!(
        status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS,
        "deterministic: cuBLAS refuses ({status:?})"
    );
    Ok(())
}
