//! CUDA kernels of Apus: fatbins, built by the build script from the `.cu` files beside this one, and the contract of
//! every kernel in them. The crate holds no host code that talks to a GPU: `apus-model` loads a [`Module`] and launches
//! its kernels as documented here.
//!
//! # Conventions
//! - Arguments are listed in order. `bf16*`, `f32*`, `u32*`, `u8*`, `f64*` are device pointers; `i32`, `i64`, `u32`,
//!   `u64`, `f32` are passed by value. Tensors are contiguous and row-major unless strides are arguments (strides
//!   count elements). The first arguments are the outputs.
//! - Matrices of bf16 must start on 16 bytes where their row width is a multiple of 8 (every fresh allocation does);
//!   other widths take a slower path that asks for no alignment.
//! - **element geometry**: `grid = ceil(count / 2048)`, `block = 256`.
//! - **row geometry**: one warp for a row, `grid = ceil(rows / 4)`, `block = 128`.
//! - A grid of zero blocks is an error in CUDA: skip the launch when there is nothing to do.
//! - No kernel needs dynamic shared memory unless it says so. Every kernel is deterministic: no floating-point atomics anywhere.
//!
//! T tokens, H hidden, Q/KV heads, D head dim, E experts, K experts a token, N = T*K routed rows, F expert width.

#[cfg(feature = "cuda")]
mod table;

#[cfg(feature = "cuda")]
pub use table::*;

/// One module of kernels: the name it is loaded under and its code.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// Unique name of the module, for the loader's cache.
    pub name: &'static str,
    /// A fatbin, of which the driver takes the machine code for the card at hand, else the PTX.
    pub image: &'static [u8],
}

/// Elements a block of the element geometry covers.
pub const ELEMENTS_PER_BLOCK: usize = 2048;
/// Rows a block of the row geometry covers.
pub const ROWS_PER_BLOCK: usize = 4;
