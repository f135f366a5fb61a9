//! The engine of Apus: data, model, operations, training, generation and export.
//!
//! Data flows one way: rows, conversations, tokens with weights, batches, layers, loss, gradients,
//! optimizer, checkpoint. Each step is a module here.

// Printing panics where nobody reads along: `outln!` and `errln!` of the SDK do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

pub mod adapter;
pub mod bench;
pub mod cards;
pub mod chat;
pub mod checksums;
pub mod config;
pub mod data;
pub mod device;
pub mod export;
mod folder;
pub mod generate;
pub mod host;
pub mod hub;
pub mod invariants;
pub mod look;
pub mod memory;
pub mod model;
pub mod ops;
pub mod panics;
pub mod plugin;
pub mod profile;
pub mod registry;
pub mod say;
pub mod signals;
pub mod synthetic;
pub mod train;
mod watched;
pub mod weights;
