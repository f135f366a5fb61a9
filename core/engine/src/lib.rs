//! What is done with data and a model: training, answers, merged weights, benchmarks, checks of plugins.

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

pub mod bench;
pub mod export;
pub mod generate;
pub mod host;
pub mod look;
pub mod model_new;
pub mod out_of_memory;
pub mod plugin_check;
pub mod setup;
pub mod train;
