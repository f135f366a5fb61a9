//! CUDA kernels of Apus: the `.cu` files beside this one, and `table.rs`, where each kernel is declared once.
//!
//! From the table come the launchers, the list of modules that the build script compiles to fatbins, and
//! `tests/kernels.json`, from which the check script knows what each kernel takes. A test compares the table with the
//! `.cu` files. Without the feature `cuda` nothing is compiled for a card, and launchers have no `launch`.
//!
//! # Launchers
//! ```
//! # use apus_kernels::{Grid, In, Out, column_sum};
//! # use half::bf16;
//! fn sums(out: Out<f32>, x: In<bf16>) {
//!     let launcher = column_sum { out, x, rows: 5, width: 2880 };
//!     assert_eq!(launcher.grid(), Grid::new([45, 1, 1], 256)); // .launch(stream) puts it on a stream
//! }
//! # sums(Out::at(0, &()), In::at(0, &()));
//! ```
//!
//! Elements of another type are a compile error, and so are an output that is only read and a missing parameter:
//!
//! ```compile_fail,E0308
//! # use apus_kernels::{In, Out, column_sum};
//! fn sums(out: Out<f32>, x: In<f32>) {
//!     let _ = column_sum { out, x, rows: 5, width: 2880 };
//! }
//! ```
//!
//! ```compile_fail,E0308
//! # use apus_kernels::{In, column_sum};
//! # use half::bf16;
//! fn sums(out: In<f32>, x: In<bf16>) {
//!     let _ = column_sum { out, x, rows: 5, width: 2880 };
//! }
//! ```
//!
//! ```compile_fail,E0063
//! # use apus_kernels::{In, Out, column_sum};
//! # use half::bf16;
//! fn sums(out: Out<f32>, x: In<bf16>) {
//!     let _ = column_sum { out, x, rows: 5 };
//! }
//! ```
//!
//! # Conventions
//! - Tensors are contiguous and row-major unless strides are arguments (strides count elements). The first arguments are
//!   the outputs.
//! - Matrices of bf16 must start on 16 bytes where their row width is a multiple of 8 (every fresh allocation does);
//!   other widths take a slower path that asks for no alignment.
//! - No kernel needs dynamic shared memory unless its grid says so. Every kernel is deterministic: no floating-point
//!   atomics anywhere.
//!
//! T tokens, H hidden, Q/KV heads, D head dim, E experts, K experts a token, N = T*K routed rows, F expert width.

mod argument;
mod module;
mod sizes;

#[cfg(feature = "cuda")]
mod functions;
mod grid;
#[cfg(feature = "cuda")]
mod launch;
#[macro_use]
mod declare;
mod table;

mod attention;
mod rows;
mod sample;
#[cfg(feature = "cuda")]
mod tensor_map;

pub use argument::{Argument, Element, Float, In, InOrNull, Out, OutOrNull, TensorMap};
pub use attention::{attention_tile, paged_splits};
pub use declare::{Declaration, Parameter};
pub use grid::Grid;
pub use module::{Attention, LargeAttention, Module};
pub use rows::{RowsLayout, Storage, most_groups, rows_a_group};
pub use sample::sample_words;
pub use sizes::*;
pub use table::*;
#[cfg(feature = "cuda")]
pub use tensor_map::Boxes;
