//! The built-in components, one per file, written against `apus-sdk` only; SwanLab's tracker is the crate in `swanlab`.
//!
//! The host calls [`link`] so that the linker keeps the registrations.

// Printing panics where nobody reads along: `outln!` and `errln!` of the SDK do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

mod callbacks;
mod formats;
mod loss_scales;
mod losses;
mod metrics;
mod optimizers;
mod schedules;
mod trackers;

/// Keeps this crate, and with it every registration in it, in the binary that calls it.
pub fn link() {
    apus_swanlab::link();
}

/// The snippets of the plugin guide compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/plugin-guide.md")]
mod guide {}
