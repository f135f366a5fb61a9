//! The components of a run and its configuration: the registry of all components, the plugin libraries that add
//! more, and the configuration that selects and sets them.

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![deny(clippy::unwrap_used)]

pub mod config;
pub mod plugin;
pub mod registry;
pub mod secrets;
pub mod similar;
