//! Every operation on a card (bf16) against the same operation on the CPU (f32, from the same inputs rounded to bf16).
//!
//! Without a card the tests print `skipped: no CUDA device` and pass; with `APUS_REQUIRE_CUDA=1` they fail instead.
//! `cargo test -p apus-model --features cuda --test cuda_ops -- --nocapture` prints the errors that were found.
#![cfg(feature = "cuda")]

mod attention;
mod blocks;
mod elements;
mod experts;
mod few_rows;
mod paged;
mod random;
mod rows;
mod sample;
mod support;
mod updates;
mod weights;
