//! `trainer_state.json`: what a run has reached, by the names of `transformers.TrainerState`.

use super::channel_loss::ChannelLosses;
use super::requested::Requested;
use super::sampling::SamplerState;
use super::steps::Steps;
use super::terms::Terms;
use anyhow::{Context, Result, ensure};
use apus_base::lines::info;
use apus_sdk::small_file::{self, Limit};
use apus_sdk::{LrSchedule, Progress, RunState};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Counted up where a checkpoint gets what older ones lack. From 1 on there are sums of its files, and the terms of
/// the run.
pub const VERSION: u32 = 1;

/// Every line of the log is in it: a million of them take a third of this.
const LIMIT: Limit = Limit::of(1 << 30);

/// The part of [`RunState`] that is saved in checkpoints, and what resuming has to compare.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TrainerState {
    /// [`VERSION`] of the run that wrote it; 0 before there were any.
    #[serde(default)]
    pub version: u32,
    /// When it was saved, RFC 3339 in UTC with milliseconds, so that the text orders as the time does.
    #[serde(default)]
    pub saved: String,
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
    /// The terms that a run which resumes from here must share.
    #[serde(default)]
    pub terms: Terms,
    /// What the best metric is one of.
    #[serde(default)]
    pub measured: Value,
    /// Of a streamed run: what was taken from the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamState>,
    /// What the sampler goes on from, where its order does not follow from anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerState>,
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
    /// What the optimizer keeps beside the state of parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub optimizer_state: Vec<Value>,
    /// What callbacks have asked of the parameters.
    #[serde(default, skip_serializing_if = "Requested::is_empty")]
    pub requested: Requested,
    /// What callbacks have changed of the micro-batches in a step: from which step (from 0) on, and how many of all ranks
    /// together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accumulation: Vec<(u64, usize)>,
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
    /// A hash over them.
    #[serde(default)]
    pub sha256: String,
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
    /// The loss of each channel, with `enable_channel_loss`.
    #[serde(default, skip_serializing_if = "ChannelLosses::is_empty")]
    pub channels: ChannelLosses,
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
        let text = small_file::text(&path, LIMIT).with_context(|| {
            "a checkpoint to resume from holds trainer_state.json (an adapter alone continues with --adapters)"
        })?;
        let state: Self = serde_json::from_str(&text)
            .with_context(|| format!("{}: malformed", path.display()))?;
        ensure!(
            state.version <= VERSION,
            "{}: version {} of its layout, this version of Apus knows {VERSION}; resume with the version that wrote it",
            path.display(),
            state.version
        );
        Ok(state)
    }

    /// Writes it into a checkpoint.
    pub fn write(&self, checkpoint: &Path) -> Result<()> {
        let path = checkpoint.join(Self::FILE);
        std::fs::write(&path, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("{}: cannot be written", path.display()))
    }

    /// Puts back what callbacks see. The best metric counts on if it is one of what is `measured` now.
    pub fn restore(&self, state: &mut RunState, measured: &Value) {
        state.global_step = self.global_step;
        state.epoch = self.epoch;
        state.log_history = self.log_history.clone();
        if self.version == 0 || self.measured == *measured {
            state.best_metric = self.best_metric;
            state.best_model_checkpoint = self.best_model_checkpoint.clone();
        } else if let Some(best) = self.best_metric {
            info!(
                "resume: the best metric so far, {best}, is of another metric_for_best_model or another evaluation \
                 set, and the best is looked for anew"
            );
        }
    }

    /// Whether the learning rates of all steps that are left are the same in a run of these `steps`.
    pub fn rates_are_those_of(&self, steps: &Steps, rate: f64, schedule: &dyn LrSchedule) -> bool {
        let warmup = self.terms.get("warmup_steps").and_then(Value::as_u64);
        let factor = |step, total, warmup| {
            let progress = Progress {
                step,
                total,
                warmup,
                learning_rate: rate,
            };
            schedule.factor(&progress).ok()
        };
        let is_planned = self.accumulation.is_empty();
        is_planned
            && (self.global_step..self.max_steps.min(steps.total)).all(|step| {
                let before = factor(step, self.max_steps, warmup.unwrap_or(steps.warmup));
                before.is_some() && before == factor(step, steps.total, steps.warmup)
            })
    }
}

/// The time, as checkpoints carry it.
pub fn now() -> String {
    time_text(Utc::now())
}

/// A time as checkpoints carry it.
pub fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
