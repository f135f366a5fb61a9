//! `trainer_state.json`: what a run has reached, by the names of `transformers.TrainerState`.

use anyhow::{Context, Result};
use apus_sdk::RunState;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The part of [`RunState`] that is saved in checkpoints, and what resuming has to compare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// The run's id, for trackers. Checkpoints of older versions have none.
    #[serde(default)]
    pub run_id: String,
    /// Optimizer steps made.
    pub global_step: u64,
    /// Optimizer steps in all.
    pub max_steps: u64,
    /// Epochs made.
    pub epoch: f64,
    /// Best value of the metric so far.
    pub best_metric: Option<f64>,
    /// The checkpoint that reached it.
    pub best_model_checkpoint: Option<PathBuf>,
    /// Examples in the training set; a resumed run must have as many.
    pub train_examples: usize,
    /// Of a streamed run: what was taken from the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamState>,
    /// Seed of the data order.
    pub data_seed: u64,
    /// Seed of everything else.
    pub seed: u64,
    /// Losses of steps that were not logged yet.
    pub pending: Pending,
    /// Everything logged.
    pub log_history: Vec<Map<String, Value>>,
    /// Value of the best checkpoint; the best evaluation may have been saved nowhere.
    #[serde(default)]
    pub best_saved_metric: Option<f64>,
    /// Which callback has ended the run here, and in which event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// The factor on the learning rate that a callback asked for.
    #[serde(default = "one")]
    pub lr_factor: f64,
    /// What callbacks keep, by name (`stateful_callbacks` of transformers).
    #[serde(default)]
    pub stateful_callbacks: Map<String, Value>,
}

/// How far a streamed run has come in its data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamState {
    /// What the order depends on; a resumed run must have the same.
    pub order: String,
    /// Examples taken.
    pub taken: u64,
}

fn one() -> f64 {
    1.0
}

/// Sums since the last log line.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Steps.
    pub steps: u64,
    /// Sum of the steps' losses.
    pub loss: f64,
    /// Sum of the steps' auxiliary losses.
    pub aux_loss: f64,
    /// Supervised tokens predicted right.
    pub right: u64,
    /// Supervised tokens.
    pub tokens: u64,
}

impl TrainerState {
    /// File name inside a checkpoint.
    pub const FILE: &str = "trainer_state.json";

    /// Reads it from a checkpoint.
    ///
    /// # Errors
    /// The file is missing or malformed: the folder is no checkpoint of Apus, or not a whole one.
    pub fn read(checkpoint: &Path) -> Result<Self> {
        let path = checkpoint.join(Self::FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "{}: cannot be read; a checkpoint to resume from holds trainer_state.json (an \
                 adapter alone continues with --adapters)",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("{}: malformed", path.display()))
    }

    /// Puts back what callbacks see.
    pub fn restore(&self, state: &mut RunState) {
        state.global_step = self.global_step;
        state.epoch = self.epoch;
        state.best_metric = self.best_metric;
        state.best_model_checkpoint = self.best_model_checkpoint.clone();
        state.log_history = self.log_history.clone();
    }
}
