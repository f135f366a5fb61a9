//! Looking at runs: it reads what a run writes into its folder, and shows it.
//!
//! Nothing here knows the engine: a run is its folder ([`run`]). From it come pictures ([`draw`]), a report in one
//! file ([`report`]), and a local page that follows runs while they go on ([`watch`]). The report and the page share
//! their scripts (`assets/`), which are part of the binary.

// Printing panics where nobody reads along: `outln!` and `errln!` of the SDK do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

mod assets;
pub mod draw;
pub mod report;
pub mod run;
pub mod watch;
