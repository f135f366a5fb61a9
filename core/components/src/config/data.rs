//! The configuration of a look at data.

use super::Config;
use super::flag::Command;
use super::resolve::typed;
use super::sft::SftConfig;
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Flags of `apus data`: its own, and all of `apus sft`, so that what is looked at is what a run with
/// the same command line or file trains on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct DataConfig {
    pub samples: usize,
    pub html: Option<String>,
    pub out: Option<String>,
    /// The flags of `apus sft`.
    #[serde(flatten)]
    pub run: Map<String, Value>,
}

impl Default for DataConfig {
    fn default() -> Self {
        let run = match serde_json::to_value(SftConfig::default()) {
            Ok(Value::Object(run)) => run,
            _ => Map::new(),
        };
        Self {
            samples: 3,
            html: None,
            out: None,
            run,
        }
    }
}

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
