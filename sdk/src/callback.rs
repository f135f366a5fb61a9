//! Callbacks: reactions to the events of Hugging Face's `TrainerCallback`.

use crate::{Answer, Control, Need, Result, Run, Setup, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Reacts to training events: implement the ones you need.
///
/// Each method sees the [`RunState`] and may ask for something through [`Control`].
///
/// ```
/// use apus_sdk::{Callback, Control, Result, RunState, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct GoodEnough {
///         /// The run ends once `eval_loss` is below this.
///         target: f64 = 1.0,
///     }
/// }
///
/// impl Callback for GoodEnough {
///     fn on_evaluate(
///         &mut self,
///         metrics: &serde_json::Map<String, serde_json::Value>,
///         _state: &RunState,
///         control: &mut Control,
///     ) -> Result<()> {
///         let loss = metrics.get("eval_loss").and_then(|loss| loss.as_f64());
///         if loss.is_some_and(|loss| loss < self.target) {
///             control.should_training_stop = true;
///         }
///         Ok(())
///     }
/// }
///
/// register! {
///     /// Stops at a loss that is good enough.
///     Callback, "good_enough", GoodEnough
/// }
///
/// let mut callback = testing::make::<dyn Callback>("good_enough", json!({"target": 0.5}))?;
/// let played = testing::Run::new(10).eval_losses(&[0.9, 0.6, 0.4, 0.3]).play(&mut *callback)?;
/// assert_eq!(played.steps, 3);
/// # Ok::<(), apus_sdk::Error>(())
/// ```
#[allow(unused_variables)]
pub trait Callback: Send {
    /// What of SDK 1.1 and later it uses.
    fn needs() -> &'static [Need]
    where
        Self: Sized,
    {
        &[]
    }

    /// Looks at the set-up of a run before its model is read; with [`Need::Check`]. Without it nothing is checked.
    ///
    /// # Errors
    /// What contradicts the component; it ends the command.
    fn check(&self, setup: &Setup) -> Result<()> {
        setup.leave();
        Ok(())
    }

    /// Training begins soon, as part of this run. The run tells something to those that declare [`Need::Run`] or a
    /// need that implies it.
    ///
    /// # Errors
    /// Whatever keeps it from working; the run does not begin.
    fn begin(&mut self, run: &Run) -> Result<()> {
        let _ = run;
        Ok(())
    }

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
    /// The optimizer has run; gradients are gone.
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
    /// A checkpoint was saved in this folder; what [`save_state`](Self::save_state) gave for it does not
    /// know of this event yet.
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
    /// A prompt of [`Control::generate`] was answered by the model as it is now.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_generate(
        &mut self,
        prompt: &str,
        answer: &str,
        state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        Ok(())
    }

    /// The questions of [`Control::ask`] that this callback asked are answered, by the model as it is now and in the step in
    /// which they were asked. Nobody else hears of it. A number that is reported here in the step of an evaluation can be
    /// the `metric_for_best_model`.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn on_answers(
        &mut self,
        answers: &[Answer],
        state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        Ok(())
    }

    /// Weights that are evaluated, answer and are saved in place of those that are trained, by the names of the parameters: of a
    /// callback that declares [`Need::Hooks`]. Averages of weights are such. Whoever runs the training asks before each of these,
    /// and puts the trained weights back afterwards.
    ///
    /// A checkpoint has these weights where others look for them, and the trained ones in a file beside them. In a run that goes on
    /// from it, [`begin`](Self::begin) sees the weights of the checkpoint, which are these, and the trained ones are
    /// put back before anything else is done: an average that begins as a copy of all values goes on as it was.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn evaluated_weights(&self) -> Result<Vec<(String, Tensor)>> {
        Ok(Vec::new())
    }

    /// What has to survive in a checkpoint; `Null` for nothing.
    ///
    /// # Errors
    /// As [`on_init_end`](Self::on_init_end).
    fn save_state(&self) -> Result<Value> {
        Ok(Value::Null)
    }
    /// Puts back what [`save_state`](Self::save_state) gave, when a run is resumed, before any event.
    ///
    /// # Errors
    /// A state that it does not know, which keeps the run from starting.
    fn load_state(&mut self, saved: Value) -> Result<()> {
        Ok(())
    }

    /// The names of all numbers that it may report; none if it does not tell, as no plugin library does. With it, a
    /// `metric_for_best_model` that nobody reports is an error before the run begins.
    fn metric_names(&self) -> Option<Vec<String>> {
        None
    }
}

/// What a run has reached, by the names of `TrainerState`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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
    /// The number by which weights are compared, as the log names it: `eval_loss`, or another.
    pub metric_for_best_model: String,
    /// The best value of `metric_for_best_model` so far.
    pub best_metric: Option<f64>,
    /// The best of the checkpoints that are on the disk.
    pub best_model_checkpoint: Option<PathBuf>,
    /// Whether a greater `metric_for_best_model` is better.
    pub greater_is_better: bool,
    /// Everything logged so far.
    #[serde(skip)]
    pub log_history: Vec<Map<String, Value>>,
    /// Folder of the run.
    pub output_dir: PathBuf,
    /// The process that asks callbacks among those that train the run together. It is always 0.
    pub rank: usize,
    /// How many processes train the run together, each on its card; 1 for a process that is alone.
    pub world_size: usize,
}

/// A run of one process that has not begun.
impl Default for RunState {
    fn default() -> Self {
        Self {
            global_step: 0,
            max_steps: 0,
            epoch: 0.0,
            num_train_epochs: 0.0,
            learning_rate: 0.0,
            loss: None,
            grad_norm: None,
            metric_for_best_model: String::new(),
            best_metric: None,
            best_model_checkpoint: None,
            greater_is_better: false,
            log_history: Vec::new(),
            output_dir: PathBuf::new(),
            rank: 0,
            world_size: 1,
        }
    }
}
