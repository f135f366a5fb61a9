//! How a run ended, and the last lines on the terminal.

use super::checkpoints::resume_flags;
use apus_components::config::{SftConfig, TrainType};
use apus_sdk::outln;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The model before or after training, for the comparison at the end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Answers to the sample prompts.
    pub answers: Vec<String>,
    /// Loss on the validation set; only where there are prompts as well.
    pub eval_loss: Option<f64>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Whether a signal ended it.
    pub interrupted: bool,
    /// The last checkpoint.
    pub last_checkpoint: Option<PathBuf>,
    /// The best checkpoint.
    pub best_checkpoint: Option<PathBuf>,
    /// The best evaluation, where its weights are in no checkpoint: the metric and its value.
    pub unsaved_best: Option<(String, f64)>,
    /// The checkpoint to try: the last that was saved, or the best where that was loaded.
    pub weights: Option<PathBuf>,
    /// The last line of the log.
    pub summary: Map<String, Value>,
    /// The model before the first step and after the last one; none where a signal ended the run.
    pub snapshots: Option<[Snapshot; 2]>,
}

impl Outcome {
    /// The last lines, which name nothing that is not on the disk.
    pub fn print(&self, config: &SftConfig, run_dir: &Path) {
        if let Some([before, after]) = &self.snapshots {
            let answers = before.answers.iter().zip(&after.answers);
            for (prompt, (before, after)) in config.sample_prompts.iter().zip(answers) {
                outln!("\n{prompt}\n  before: {before}\n  after:  {after}");
            }
        }
        outln!();
        if let Some([before, after]) = &self.snapshots
            && let (Some(first), Some(last)) = (before.eval_loss, after.eval_loss)
        {
            outln!("eval loss: {first:.4} before, {last:.4} after");
        }
        let number = |key: &str| self.summary.get(key).and_then(Value::as_f64);
        if let (Some(rate), Some(seconds)) = (number("tokens_per_second"), number("train_runtime"))
        {
            let memory = number("memory(GiB)")
                .map_or(String::new(), |gib| format!(", peak memory {gib:.2} GiB"));
            let each = number("tokens_per_second_per_rank")
                .map_or(String::new(), |rate| format!(" ({rate:.0} a rank)"));
            outln!("{rate:.0} tokens/s{each}, {seconds:.0} s{memory}");
        }
        outln!("run: {}", run_dir.display());
        if let Some((metric, value)) = &self.unsaved_best {
            outln!(
                "best {metric}: {value:.4}, of weights that were not saved (--save_strategy best saves them)"
            );
        }
        if let Some(best) = &self.best_checkpoint {
            outln!("best checkpoint: {}", best.display());
        }
        if let Some(last) = &self.last_checkpoint {
            outln!("last checkpoint: {}", last.display());
        }
        if let Some(weights) = &self.weights {
            match &config.train_type {
                TrainType::Full => outln!("try it: apus infer --model {}", weights.display()),
                TrainType::Lora | TrainType::Tuner(_) => {
                    outln!("try it: apus infer --adapters {}", weights.display())
                }
            }
        }
        if let (true, Some(last)) = (self.interrupted, &self.last_checkpoint) {
            outln!("go on:  add {}", resume_flags(last, config.save_only_model));
        }
    }
}
