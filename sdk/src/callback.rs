//! Callbacks: reactions to the events of Hugging Face's `TrainerCallback`.

use crate::Result;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Reacts to training events: implement the ones you need.
///
/// Each method sees the [`RunState`] and may ask for something through [`Control`].
#[allow(unused_variables)]
pub trait Callback: Send {
    /// The trainer is ready; nothing has run yet.
    ///
    /// # Errors
    /// An error in any event stops the run, after its state was saved.
    fn on_init_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        Ok(())
    }
    /// Training begins.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_train_begin(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        Ok(())
    }
    /// Training is over.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_train_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        Ok(())
    }
    /// An epoch begins.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_epoch_begin(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        Ok(())
    }
    /// An epoch is over.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_epoch_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        Ok(())
    }
    /// An optimizer step (all its micro-batches) begins.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_step_begin(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        Ok(())
    }
    /// A micro-batch that is not the last of its step is over.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_substep_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        Ok(())
    }
    /// Gradients are complete and clipped; the optimizer comes next.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_pre_optimizer_step(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        Ok(())
    }
    /// The optimizer has run; gradients are not cleared yet.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_optimizer_step(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        Ok(())
    }
    /// A step is over. Flags set in `control` are acted upon after all callbacks have run.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_step_end(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        Ok(())
    }
    /// One batch of an evaluation is over.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_prediction_step(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        Ok(())
    }
    /// An evaluation is over; `metrics` holds `eval_loss` and the rest.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_evaluate(
        &mut self,
        metrics: &Map<String, Value>,
        state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        Ok(())
    }
    /// A checkpoint was saved in this folder.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_save(
        &mut self,
        checkpoint: &Path,
        state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        Ok(())
    }
    /// Numbers are about to be logged; more may be added to `values`.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_log(
        &mut self,
        values: &mut Map<String, Value>,
        state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        Ok(())
    }
}

/// What a run has reached, by the names of `TrainerState`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunState {
    /// Optimizer steps made.
    pub global_step: u64,
    /// Optimizer steps in all.
    pub max_steps: u64,
    /// Epochs made, as a fraction.
    pub epoch: f64,
    /// Epochs in all.
    pub num_train_epochs: f64,
    /// The learning rate of the last step.
    pub learning_rate: f64,
    /// The mean loss of the last step.
    pub loss: Option<f64>,
    /// The gradient norm of the last step, before clipping.
    pub grad_norm: Option<f64>,
    /// The best value of `metric_for_best_model` so far.
    pub best_metric: Option<f64>,
    /// The checkpoint that reached it.
    pub best_model_checkpoint: Option<PathBuf>,
    /// Whether a greater `metric_for_best_model` is better.
    pub greater_is_better: bool,
    /// Everything logged so far.
    pub log_history: Vec<Map<String, Value>>,
    /// Folder of the run.
    pub output_dir: PathBuf,
}

/// What a callback asks for, by the names of `TrainerControl`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Control {
    /// Leave after this step, as if all steps were made.
    pub should_training_stop: bool,
    /// Save a checkpoint after this step.
    pub should_save: bool,
    /// Evaluate after this step.
    pub should_evaluate: bool,
    /// Log after this step.
    pub should_log: bool,
    /// Extra numbers for the next log line.
    pub metrics: Map<String, Value>,
    /// A factor on the scheduled learning rate from the next step on.
    pub lr_factor: Option<f64>,
    /// Prompts to answer after this step; trackers receive the texts.
    pub generate: Vec<String>,
}
