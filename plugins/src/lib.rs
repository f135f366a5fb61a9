//! The built-in components, a file or a folder for each, written against `apus-sdk` only.
//!
//! Despite the folder's name, nothing here is loaded at run time: the crate is linked into `apus`. Plugins that users
//! write are packages of their own. SwanLab's tracker is in the crate `plugins/swanlab`.
//!
//! The host calls [`link`] so that the linker keeps the registrations.

// `println!` panics when the other end of the pipe is closed; `outln!` and `errln!` of the SDK do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

mod callbacks;
mod datasets;
mod exporters;
mod formats;
mod loss_scales;
mod losses;
mod metrics;
mod optimizers;
mod samplers;
mod schedules;
mod trackers;
mod tuners;

/// Keeps this crate, and with it every registration in it, in the binary that calls it.
pub fn link() {
    apus_swanlab::link();
}

/// The snippets of the plugin guide compile and run.
#[cfg(doctest)]
#[doc = include_str!("../../docs/plugin-guide.md")]
mod guide {}
