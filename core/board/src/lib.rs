//! Reads what a run writes into its folder, and shows it.
//!
//! This crate does not depend on the engine: all it knows of a run is its folder ([`run`]). From the folder it makes
//! pictures ([`draw`]), a report in one file ([`report`]), and a local page that follows runs ([`watch`]). The report and
//! the page share the scripts in `assets/`, which are part of the binary.

// Printing panics where nobody reads along: `outln!` and `errln!` of the SDK do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

mod assets;
pub mod draw;
pub mod report;
pub mod run;
pub mod watch;
