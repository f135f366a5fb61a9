//! What a run is made of and how it is asked for: every component that can be named, the plugin
//! libraries that bring more of them, and the configuration that chooses among them.

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

pub mod config;
pub mod nearest;
pub mod plugin;
pub mod registry;
pub mod secrets;
