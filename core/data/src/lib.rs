//! From files and hubs to tokens with weights: rows, conversations, rendering, labels.

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

pub mod chat;
pub mod data;
pub mod hub;
pub mod invariants;
