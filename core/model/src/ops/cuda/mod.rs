//! The CUDA side of the operations, one file each. All `unsafe` code is in `launch`, `tensor_map`, `gemm` and `upload`.

mod card;
mod functions;
mod gemm;
mod launch;
mod tensor_map;

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod fill;
pub mod grouped;
pub mod linear;
pub mod lora;
pub mod mxfp4;
pub mod permute;
pub mod product;
pub mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod router;
pub mod swiglu;
pub mod upload;
