//! What every crate of the engine stands on: lines for people, signals, checksums, folders that are replaced whole, memory of the
//! process, and work that is given up on.

// Printing panics where nobody reads along: `outln!` and `errln!` of the SDK do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

pub mod checksums;
pub mod folder;
pub mod limits;
pub mod memory;
pub mod panics;
pub mod say;
pub mod signals;
pub mod watched;
