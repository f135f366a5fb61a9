//! How a run ends: after its last step, by a callback, or by a signal.

use super::{Outcome, ROUNDS, Trainer};
use anyhow::Result;
use apus_base::say::{info, warning};
use serde_json::{Map, Value};

impl Trainer<'_> {
    /// After a signal: what was trained is saved, and nothing else begins.
    pub(super) fn leave(&mut self) -> Result<()> {
        let step = self.state.global_step;
        let is_saved = self.saved.as_ref().is_some_and(|saved| saved.step == step);
        if step > 0 && !is_saved && self.loaded.is_none() {
            self.save()?;
        }
        self.end()
    }

    /// Tells callbacks that training is over, once.
    pub(super) fn end(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.ended, true) {
            true => Ok(()),
            false => self.events.on_train_end(&self.state),
        }
    }

    /// What callbacks ask for when training is over: answers they get, and numbers are logged.
    pub(super) fn do_late_requests(&mut self) -> Result<()> {
        let mut rounds = 0;
        while self.events.has_prompts() && rounds < ROUNDS {
            rounds += 1;
            self.answer_callbacks()?;
        }
        if !self.events.control.metrics.is_empty() {
            let mut values = Map::from_iter([("epoch".to_owned(), self.state.epoch.into())]);
            self.add_progress(&mut values);
            self.report(values)?;
        }
        let late = self.take_requests();
        if late.evaluate || late.save {
            warning!(
                "callbacks ask for an evaluation or a checkpoint when training is over; there is none any more"
            );
        }
        Ok(())
    }

    pub(super) fn say_if_nothing_is_left(&self) {
        let (step, total) = (self.state.global_step, self.steps.total);
        if let Some(by) = self.events.stopped() {
            info!(
                "{by}, ends the run before it makes a step, after step {step} of {total}; it goes on without this \
                 callback, or with other options of it"
            );
        } else if step >= total {
            info!(
                "nothing is left to train: {step} of {total} steps are made; a greater num_train_epochs or max_steps \
                 goes on"
            );
        }
    }

    pub(super) fn say_who_stopped(&self) {
        if let Some(by) = self.events.stopped() {
            let (step, total) = (self.state.global_step, self.steps.total);
            info!("{by}, ends the run after step {step} of {total}");
        }
    }

    pub(super) fn outcome(self, interrupted: bool, summary: Map<String, Value>) -> Outcome {
        let unsaved = self
            .state
            .best_metric
            .filter(|_| self.best.saved() != self.state.best_metric);
        let loaded = self.loaded.map(|(_, path)| path);
        Outcome {
            interrupted,
            unsaved_best: unsaved.map(|value| (self.best.key(), value)),
            weights: loaded.or_else(|| self.last_checkpoint.clone()),
            last_checkpoint: self.last_checkpoint,
            best_checkpoint: self.state.best_model_checkpoint,
            summary,
            before: self.before,
            after: self.after,
        }
    }
}
