//! What operations share on CUDA. Kernels are launched by the launchers of `apus_kernels`; the only other `unsafe` code is
//! in `tensors`, `gemm` and `upload`.

mod card;
mod gemm;
mod tensors;

pub mod upload;

pub use card::capability;
pub use gemm::{Operand, gemm};
pub use tensors::{empty, input, optional_input, output, pointer};
