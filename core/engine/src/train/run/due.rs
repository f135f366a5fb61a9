//! What is done after a step where it is due: a line of the log, an evaluation, answers, a checkpoint.

use super::outcome::Snapshot;
use super::set_aside::SetAside;
use super::{ROUNDS, Run};
use crate::train::optimizer::Hook;
use crate::train::settings::Due;
use anyhow::Result;
use apus_base::lines::warning;
use serde_json::{Map, Value};
use std::sync::Once;

impl Run<'_> {
    /// What callbacks asked for since the last time.
    pub(super) fn take_requests(&mut self) -> Due {
        static WARNED: Once = Once::new();
        let asked = self.events.take_requests();
        if asked.evaluate && self.evaluations.is_empty() {
            WARNED.call_once(|| {
                warning!("a callback asks for an evaluation, and there is nothing to evaluate on");
            });
        }
        asked
    }

    /// Logs the steps since the last line.
    pub(super) fn log(&mut self) -> Result<()> {
        match self.progress.line(self.settings) {
            Some(values) => self.report(values),
            None => Ok(()),
        }
    }

    /// Hands a line to callbacks, which may add to it, and to trackers.
    fn report(&mut self, mut values: Map<String, Value>) -> Result<()> {
        let state = &mut self.progress.state;
        self.events.on_log(&mut values, state)?;
        state.log_history.push(values.clone());
        self.reports.log(state.global_step, &values);
        Ok(())
    }

    /// Evaluates the weights of this step and logs what comes of it. Returns whether they are the best so far, as far as
    /// that is known before callbacks have reported their numbers.
    pub(super) fn evaluate(&mut self) -> Result<bool> {
        let values = self.with_evaluated_weights(|run| {
            let (progress, events) = (&run.progress, &mut run.events);
            let _busy = run.view.busy();
            run.evaluations
                .evaluate(&run.learner, progress, events, &run.reports)
        })?;
        let (progress, events) = (&mut self.progress, &mut self.events);
        let better = self.checkpoints.evaluated(&values, &mut progress.state);
        events.on_evaluate(&values, &progress.state)?;
        self.report(values)?;
        Ok(better)
    }

    /// Takes the best metric from the numbers that callbacks reported. Returns whether these weights are the best so far.
    pub(super) fn compare_reported_metric(&mut self) -> Result<bool> {
        let (values, reported) = (self.evaluations.last(), self.events.reported());
        self.checkpoints
            .compare_reported_metric(&values, reported, &mut self.progress.state)
    }

    /// Does `work` with the weights that are evaluated and that answer; once the best checkpoint was loaded those are there.
    fn with_evaluated_weights<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        if self.checkpoints.loaded().is_some() {
            return work(self);
        }
        self.learner.hook(Hook::BeforeEvaluation)?;
        let done = self.with_weights_of_callbacks(work);
        let back = self.learner.hook(Hook::AfterEvaluation);
        let done = done?;
        back.map(|()| done)
    }

    fn with_weights_of_callbacks<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let aside = SetAside::put(&self.learner, self.events.evaluated_weights()?)?;
        // What was set meanwhile would be lost when the trained weights come back.
        let busy = (!aside.is_empty()).then(|| self.view.busy());
        let done = work(self);
        drop(busy);
        let back = aside.take_back(&self.learner);
        let done = done?;
        back.map(|()| done)
    }

    /// Answers the sample prompts.
    pub(super) fn answer_samples(&mut self) -> Result<Vec<String>> {
        self.with_evaluated_weights(|run| {
            let step = run.checkpoints.weights_step(&run.progress.state);
            run.answers.samples(run.learner.model, step, &run.reports)
        })
    }

    /// Answers the prompts of callbacks.
    pub(super) fn answer_callbacks(&mut self) -> Result<()> {
        self.with_evaluated_weights(|run| {
            let state = &run.progress.state;
            let step = run.checkpoints.weights_step(state);
            let listeners = (&mut run.events, state);
            run.answers
                .of_callbacks(run.learner.model, step, listeners, &run.reports)
        })
    }

    /// Saves a checkpoint.
    pub(super) fn save(&mut self) -> Result<()> {
        let (progress, events) = (&mut self.progress, &mut self.events);
        self.checkpoints.save(
            &mut self.learner,
            progress,
            events,
            (&self.examples, &self.reports),
        )?;
        if let (Some(ranks), Some(path)) = (&self.learner.ranks, self.checkpoints.last()) {
            ranks.note_checkpoint(path);
        }
        Ok(())
    }

    /// Saves the last checkpoint again, where it was written before it was known how the run ends.
    pub(super) fn complete_checkpoint(&mut self) -> Result<()> {
        let (progress, events) = (&mut self.progress, &self.events);
        self.checkpoints.complete(
            &mut self.learner,
            progress,
            events,
            (&self.examples, &self.reports),
        )
    }

    /// Answers the sample prompts and evaluates: before the first step and after the last.
    pub(super) fn snapshot(&mut self) -> Result<Snapshot> {
        if !self.answers.has_samples() {
            return Ok(Snapshot::default());
        }
        let step = self.checkpoints.weights_step(&self.progress.state);
        Ok(Snapshot {
            answers: self.answer_samples()?,
            eval_loss: self
                .with_evaluated_weights(|run| run.evaluations.loss(&run.learner, step))?,
        })
    }

    /// What callbacks ask for when training is over: prompts are answered and numbers are logged; more comes too late.
    pub(super) fn do_late_requests(&mut self) -> Result<()> {
        let mut rounds = 0;
        while self.events.has_prompts() && rounds < ROUNDS {
            rounds += 1;
            self.answer_callbacks()?;
        }
        if !self.events.control.metrics.is_empty() {
            let mut values = Map::new();
            self.progress.add_to(&mut values);
            self.report(values)?;
        }
        self.checkpoints.keep_asked(&mut self.events)?;
        let late = self.take_requests();
        if late.evaluate || late.save {
            warning!(
                "callbacks ask for an evaluation or a checkpoint when training is over; there is none any more"
            );
        }
        Ok(())
    }
}
