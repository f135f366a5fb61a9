//! The configurations of the other commands.

use super::flag::Command;
use super::{
    Config, DeployConfig, ExportConfig, InferConfig, ModelNewConfig, absolute, instructions,
};
use anyhow::Result;

impl Config for InferConfig {
    const COMMAND: Command = Command::Infer;

    fn resolve_values(&mut self) -> Result<()> {
        instructions(&mut self.system)
    }
}

impl Config for DeployConfig {
    const COMMAND: Command = Command::Deploy;

    fn resolve_values(&mut self) -> Result<()> {
        instructions(&mut self.system)
    }
}

impl Config for ExportConfig {
    const COMMAND: Command = Command::Export;

    fn resolve_values(&mut self) -> Result<()> {
        self.output_dir.as_mut().map_or(Ok(()), absolute)
    }
}

impl Config for ModelNewConfig {
    const COMMAND: Command = Command::ModelNew;

    fn resolve_values(&mut self) -> Result<()> {
        self.output_dir.as_mut().map_or(Ok(()), absolute)
    }
}
