//! The configuration of a look at data.

use super::flag::Command;
use super::resolve::typed;
use super::{Config, DataConfig, SftConfig};
use anyhow::{Result, ensure};

impl super::Config for DataConfig {
    const COMMAND: Command = Command::Data;
}

impl DataConfig {
    /// The run whose data is looked at.
    ///
    /// # Errors
    /// A value that does not fit its flag, no dataset, or neither model nor tokenizer.
    pub fn sft(&self) -> Result<SftConfig> {
        let mut run: SftConfig = typed(self.run.clone(), str::to_owned)?;
        run.resolve_values()?;
        ensure!(
            !run.dataset.is_empty(),
            "no data to look at: give files, as in apus data train.jsonl --model DIR"
        );
        ensure!(
            !run.model.is_empty() || run.tokenizer.is_some(),
            "--model or --tokenizer is missing: a directory with tokenizer.json (weights are not read)"
        );
        run.check_data()?;
        Ok(run)
    }
}
