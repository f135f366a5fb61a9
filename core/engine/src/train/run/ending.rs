//! How a run ends: at its last step, by a signal or by an error.

use super::Run;
use super::outcome::{Outcome, Snapshot};
use anyhow::Result;
use apus_base::lines::{info, warning};
use apus_sdk::EndState;

impl Run<'_> {
    /// After a signal: saves what was trained, and begins nothing else.
    pub(super) fn save_after_signal(&mut self) -> Result<()> {
        let (progress, events) = (&mut self.progress, &mut self.events);
        self.checkpoints.save_unsaved_steps(
            &mut self.learner,
            progress,
            events,
            (&self.examples, &self.reports),
        )?;
        self.events.end_training(&self.progress.state)
    }

    /// Ends a run that was not stopped by an error: writes the last line of the log and describes how it ended.
    pub(super) fn finish(mut self, snapshots: Option<[Snapshot; 2]>) -> Outcome {
        let (state, last) = (&self.progress.state, self.checkpoints.last());
        let mut summary = self.progress.summary(last);
        summary.extend(self.set_up.described());
        if let Some((report, warnings)) = self.examples.streamed_report() {
            info!("data\n{report}");
            warnings.iter().for_each(|line| warning!("{line}"));
            summary.insert("train_dataset".to_owned(), report.into());
        }
        let end = match &snapshots {
            Some(_) => EndState::Finished(summary.clone()),
            None => EndState::Interrupted,
        };
        self.reports.finish(state.global_step, &end);
        Outcome {
            interrupted: snapshots.is_none(),
            unsaved_best: self.checkpoints.unsaved_best(state),
            weights: self.checkpoints.loaded().or(last).map(Into::into),
            last_checkpoint: last.map(Into::into),
            best_checkpoint: state.best_model_checkpoint.clone(),
            summary,
            snapshots,
        }
    }

    /// Ends a run by an error: saves what was trained where it is sound, and adds to the error where that is.
    pub(super) fn fail(mut self, error: anyhow::Error) -> anyhow::Error {
        let error = self.set_up.explain(error);
        let (progress, events) = (&mut self.progress, &self.events);
        let error = self.checkpoints.rescue(
            error,
            &mut self.learner,
            progress,
            events,
            (&self.examples, &self.reports),
        );
        let end = EndState::Crashed(format!("{error:#}"));
        self.reports.finish(self.progress.state.global_step, &end);
        error
    }
}
