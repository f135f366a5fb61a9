//! What the training loop needs to know, apart from model, data and components.

use super::examples::digest;
use super::resume::Resume;
use super::steps::{RunLength, Steps};
use super::terms::Terms;
use anyhow::{Result, ensure};
use apus_base::lines::warning;
use apus_components::config::StepsOrShare;
use apus_data::chat::Encoded;
use serde_json::{Map, Value, json};
use std::ops::BitOrAssign;
use std::path::PathBuf;

/// When something happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Every {
    /// Never by itself.
    Never,
    /// After this many steps, again and again.
    Steps(StepsOrShare),
    /// At the end of each epoch.
    Epoch,
    /// After each evaluation that is the best so far; for checkpoints.
    Better,
}

impl Every {
    /// Whether it happens after the first `step` of these steps.
    pub fn due(self, step: u64, steps: &Steps) -> bool {
        match self {
            Self::Never | Self::Better => false,
            Self::Steps(every) => step.is_multiple_of(every.of(steps.planned)),
            Self::Epoch => step > 0 && steps.ends_epoch(step - 1),
        }
    }
}

/// What is done after a step, each at most once for its weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Due {
    /// Write a line of the log.
    pub log: bool,
    /// Evaluate.
    pub evaluate: bool,
    /// Save a checkpoint.
    pub save: bool,
}

impl BitOrAssign for Due {
    fn bitor_assign(&mut self, other: Self) {
        self.log |= other.log;
        self.evaluate |= other.evaluate;
        self.save |= other.save;
    }
}

/// The numbers of a run; each has the meaning of the flag of its name.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of the run.
    pub run_dir: PathBuf,
    /// Name of the run.
    pub run_name: String,
    /// Epochs.
    pub num_train_epochs: f64,
    /// Steps, in place of epochs.
    pub max_steps: Option<u64>,
    /// Examples in a micro-batch.
    pub per_device_train_batch_size: usize,
    /// Examples in a batch of an evaluation.
    pub per_device_eval_batch_size: usize,
    /// Micro-batches in a step.
    pub gradient_accumulation_steps: usize,
    /// Base learning rate.
    pub learning_rate: f64,
    /// Leave out the last micro-batch of an epoch where it is not full.
    pub drop_last: bool,
    /// Noise on the embeddings.
    pub neftune_noise_alpha: Option<f64>,
    /// How much of the run warms up.
    pub warmup: StepsOrShare,
    /// Bound of the gradient norm; 0 does not clip.
    pub max_grad_norm: f64,
    /// Tokens of a micro-batch that the memory plan has room for.
    pub planned_tokens: usize,
    /// Layers that keep their tape.
    pub kept_layers: usize,
    /// Weight of the router's auxiliary loss.
    pub router_aux_loss_coef: f64,
    /// Whether the loss of each channel is reported.
    pub enable_channel_loss: bool,
    /// Steps between log lines.
    pub logging_steps: StepsOrShare,
    /// Whether the first step is logged too.
    pub logging_first_step: bool,
    /// When to evaluate.
    pub evaluate: Every,
    /// When to save.
    pub save: Every,
    /// Checkpoints kept beside the best and the last.
    pub save_total_limit: Option<usize>,
    /// Save no optimizer state.
    pub save_only_model: bool,
    /// `loss`, or the name of a metric.
    pub metric_for_best_model: String,
    /// Whether more of it is better.
    pub greater_is_better: bool,
    /// Go back to the best checkpoint at the end.
    pub load_best_model_at_end: bool,
    /// Seed of dropout.
    pub seed: u64,
    /// Seed of the data order.
    pub data_seed: u64,
    /// Checkpoint to resume from.
    pub resume: Option<Resume>,
    /// The terms that a run which resumes from a checkpoint of this one must share, as far as the
    /// configuration tells.
    pub terms: Terms,
    /// How long the end of the run waits for trackers.
    pub tracker_timeout: std::time::Duration,
    /// Whether pictures are drawn and a report is written.
    pub plot: bool,
    /// Whether a panel is drawn in place of the progress bar.
    pub tui: bool,
    /// The resolved configuration, for trackers and args.json.
    pub config: Map<String, Value>,
    /// The model, for trackers, as [`RunInfo::model`](apus_sdk::RunInfo) describes it.
    pub model: Map<String, Value>,
}

impl Settings {
    /// The steps of a run with this many examples in an epoch.
    ///
    /// # Errors
    /// No example, or no step.
    pub(super) fn steps(&self, examples: usize) -> Result<Steps> {
        Steps::new(&RunLength {
            examples,
            batch_size: self.per_device_train_batch_size,
            accumulation: self.gradient_accumulation_steps,
            epochs: self.num_train_epochs,
            max_steps: self.max_steps,
            drop_last: self.drop_last,
            warmup: self.warmup,
        })
    }

    /// What the intervals ask for after the first `step` of these steps.
    pub(super) fn due_after(&self, step: u64, steps: &Steps) -> Due {
        Due {
            log: Every::Steps(self.logging_steps).due(step, steps)
                || (step == 1 && self.logging_first_step),
            evaluate: self.evaluate.due(step, steps),
            save: self.save.due(step, steps),
        }
    }

    /// What is done after the last step, whether all steps were made or a callback has ended the run.
    pub(super) fn due_at_the_end(&self) -> Due {
        Due {
            log: true,
            evaluate: self.evaluate != Every::Never,
            save: !matches!(self.save, Every::Never | Every::Better),
        }
    }

    /// What the best metric of this run is one of: a value of another metric, or on other data, is no measure for it.
    pub(super) fn measured(&self, val: &[Encoded]) -> Value {
        json!({
            "metric_for_best_model": self.metric_for_best_model,
            "greater_is_better": self.greater_is_better,
            "val_dataset": digest(val, None),
        })
    }

    /// Refuses to choose among checkpoints without evaluations. Shares of a run are rounded to steps: of checkpoints that
    /// were to be evaluated, some may then be between two evaluations, which is said.
    ///
    /// # Errors
    /// The best checkpoint is asked for, and there is `nothing` to evaluate on.
    pub(super) fn check_evaluations(&self, steps: &Steps, nothing: bool) -> Result<()> {
        ensure!(
            !nothing || !(self.load_best_model_at_end || self.save == Every::Better),
            "load_best_model_at_end and save_strategy best need evaluations, and there is nothing to evaluate on: give \
             --val_dataset or --split_dataset_ratio"
        );
        if let (true, Every::Steps(save), Every::Steps(evaluate)) =
            (self.load_best_model_at_end, self.save, self.evaluate)
            && let (save, evaluate) = (save.of(steps.total), evaluate.of(steps.total))
            && !save.is_multiple_of(evaluate)
        {
            warning!(
                "of {} steps, checkpoints come every {save} and evaluations every {evaluate}: load_best_model_at_end \
                 chooses among those checkpoints that are evaluated",
                steps.total
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::parts::loop_settings;
    use apus_components::config::{EvalStrategy, SaveStrategy, SftConfig};
    use std::path::Path;

    /// Settings of a run of ten steps, five an epoch, and these steps.
    fn settings(config: &SftConfig) -> (Settings, Steps) {
        let config = SftConfig {
            per_device_train_batch_size: 2,
            gradient_accumulation_steps: Some(2),
            num_train_epochs: 2.0,
            ..config.clone()
        };
        let (none, run) = ((None, Terms::default()), Path::new("run"));
        let settings = loop_settings(&config, run, 0, Map::new(), Map::new(), none).unwrap();
        let steps = settings.steps(20).unwrap();
        (settings, steps)
    }

    #[test]
    fn intervals_say_what_is_due_after_a_step_and_the_end_what_is_due_then() {
        let (settings, steps) = settings(&SftConfig {
            logging_steps: StepsOrShare::Steps(4),
            logging_first_step: true,
            eval_strategy: Some(EvalStrategy::Epoch),
            save_strategy: SaveStrategy::Steps,
            save_steps: StepsOrShare::Share(0.3),
            ..SftConfig::default()
        });
        assert_eq!((steps.total, steps.per_epoch), (10, 5));
        let after = |due: fn(Due) -> bool| -> Vec<u64> {
            let all = 1..=steps.total;
            all.filter(|&step| due(settings.due_after(step, &steps)))
                .collect()
        };
        assert_eq!(after(|due| due.log), [1, 4, 8]);
        assert_eq!(after(|due| due.evaluate), [5, 10]);
        assert_eq!(after(|due| due.save), [3, 6, 9]);
        let all = Due {
            log: true,
            evaluate: true,
            save: true,
        };
        assert_eq!(settings.due_at_the_end(), all);
    }

    #[test]
    fn what_is_asked_of_evaluations_needs_something_to_evaluate_on() {
        let best = SftConfig {
            eval_strategy: Some(EvalStrategy::Steps),
            save_strategy: SaveStrategy::Best,
            ..SftConfig::default()
        };
        let (settings, steps) = settings(&best);
        assert!(!settings.due_at_the_end().save, "only what is better");
        settings.check_evaluations(&steps, false).unwrap();
        let error = settings.check_evaluations(&steps, true).unwrap_err();
        assert!(error.to_string().contains("--val_dataset"), "{error}");
    }
}
