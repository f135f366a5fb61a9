//! The commands that work with data and a model: training, generation, export, benchmarks, data previews, plugin checks.

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

pub mod bench;
pub mod eval;
pub mod export;
pub mod generate;
pub mod host;
mod html;
pub mod install;
pub mod model_new;
pub mod out_of_memory;
pub mod plugin_check;
pub mod preview;
mod progress_bar;
pub mod serve;
pub mod setup;
pub mod train;
pub mod tuners;
