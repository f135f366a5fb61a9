//! Configuration: one table of flags, from which parsing, help and documentation come; a TOML file
//! under the flags; a typed structure per command.

mod bench;
mod cli;
mod component;
mod data;
mod flag;
mod flags;
mod resolve;
mod sft;
mod swanlab;
mod tools;

pub use bench::BenchConfig;
pub use cli::{command, help};
pub use component::Spec;
pub use data::DataConfig;
pub use flag::{Command, Flag, Kind};
pub use flags::FLAGS;

pub use resolve::{
    ComponentOptions, Resolved, from_arguments, from_matches, nearest, split_options,
};
pub use sft::SftConfig;
pub use tools::{ExportConfig, InferConfig, ModelNewConfig};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The typed configuration of a command.
pub trait Config: Serialize + DeserializeOwned + Default {
    /// The command.
    const COMMAND: Command;
}
