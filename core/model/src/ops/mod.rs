//! Fused operations with explicit forward and backward passes.
//!
//! An operation that has kernels is a folder: `mod` says what is computed, checks shapes and calls one of the others, `cpu` is
//! the formula written out, `cuda` launches kernels. What they share is in `host` and in `cuda`. One without kernels of its own
//! (`gated`) is composed of tensor operations on every device; what a card has no kernel for is refused by `check_device` before a
//! model is loaded.
//!
//! An operation is a pair of free functions on plain tensors: nothing here is recorded by candle's
//! autograd, which would allocate a buffer of zeros per edge, compute gradients of frozen weights,
//! and cut gradients in fused operations without an error. Layers call `forward`, keep what
//! `backward` needs on their own tape, and call `backward` in reverse.
//!
//! On the CPU everything is f32; on CUDA activations are bf16, statistics and small tensors f32,
//! and sums are taken in f32. Every sum has a fixed order, so that a run repeats bit for bit.
//!
//! Shapes are written with these letters: `T` tokens, `H` hidden size, `Q` and `KV` heads, `D` head dimension, `E`
//! experts, `K` experts a token, `N = T * K` routed rows, `R` rank.

/// Calls a function of the module `cuda` with the card of a device, and that of the module `cpu` on the CPU.
macro_rules! on_device {
    ($device:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $device {
            #[cfg(feature = "cuda")]
            candle_core::Device::Cuda(card) => cuda::$function($($argument,)* card),
            _ => cpu::$function($($argument),*),
        }
    };
}

pub mod adamw;
pub mod attention;
pub mod copy;
pub mod cross_entropy;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
pub mod dropout;
pub mod fill;
pub mod gated;
pub mod grouped;
pub mod groups;
mod host;
pub mod linear;
pub mod lookup;
pub mod lora;
pub mod mxfp4;
pub mod paged;
pub mod permute;
pub mod philox;
pub mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod router;
pub mod rows;
pub mod sample;
pub mod seq;
mod simd;
mod small_matmul;
pub mod swiglu;

#[cfg(test)]
pub(crate) mod testing;

pub use groups::Groups;
pub use rope::Heads;
pub use seq::{SeqLayout, TokenKey};
