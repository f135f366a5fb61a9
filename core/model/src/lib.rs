//! The model and what it needs to compute: devices, operations, layers with explicit backward passes, weights and
//! adapters.

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

pub mod adapter;
pub mod cards;
pub mod device;
pub mod families;
pub mod model;
pub mod nn;
pub mod ops;
pub mod profile;
pub mod synthetic;
pub mod tensors;
pub mod weights;
