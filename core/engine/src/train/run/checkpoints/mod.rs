//! The checkpoints of a run: those on the disk, the one that it resumes from, the best among them.

mod write;

pub use write::resume_flags;

use super::learner::Learner;
use super::progress::Progress;
use super::set_aside;
use crate::train::best::Best;
use crate::train::checkpoint::Rotation;
use crate::train::events::Events;
use crate::train::examples::Examples;
use crate::train::resume::Parts;
use crate::train::settings::Settings;
use crate::train::state::TrainerState;
use crate::train::steps::Steps;
use crate::train::terms::Terms;
use crate::train::trained_part::TrainedPart;
use anyhow::{Context, Error, Result};
use apus_base::lines::{info, warning};
use apus_data::chat::Encoded;
use apus_model::model::CausalLm;
use apus_sdk::RunState;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// What is on the disk, and what the next checkpoint will say.
pub struct Checkpoints<'a> {
    settings: &'a Settings,
    trained: &'a TrainedPart,
    best: Best,
    rotation: Rotation,
    /// The newest checkpoint.
    last: Option<PathBuf>,
    /// What the newest checkpoint contains.
    saved: Option<Saved>,
    /// The terms that a run which resumes from one of these must share.
    terms: Terms,
    /// What the best metric is one of.
    measured: Value,
    /// Whether a checkpoint is being written, or could not be written.
    saving: bool,
    /// The best checkpoint and its step, once it was loaded.
    loaded: Option<(u64, PathBuf)>,
}

/// What a checkpoint on the disk contains.
struct Saved {
    step: u64,
    /// What callbacks keep, from before they were told of this checkpoint.
    kept: Map<String, Value>,
    /// Lines of the log.
    lines: usize,
    stopped: bool,
}

impl Saved {
    fn by(state: &TrainerState) -> Self {
        Self {
            step: state.global_step,
            kept: state.stateful_callbacks.clone(),
            lines: state.log_history.len(),
            stopped: state.stopped.is_some(),
        }
    }
}

impl<'a> Checkpoints<'a> {
    /// None yet, of a run of these `steps` over these examples that is evaluated on `val`.
    pub fn new(
        settings: &'a Settings,
        trained: &'a TrainedPart,
        (examples, steps): (&Examples, &Steps),
        val: &[Encoded],
    ) -> Self {
        let mut terms = settings.terms.clone();
        terms.put("data", examples.content());
        // The whole of a streamed run is one epoch, as long as the run.
        if terms.get("streaming") == Some(&Value::Bool(false)) {
            terms.put("examples_per_epoch", steps.examples_per_epoch);
        }
        terms.put("max_steps", steps.total);
        terms.put("warmup_steps", steps.warmup);
        Self {
            settings,
            trained,
            best: Best::by(&settings.metric_for_best_model, settings.greater_is_better),
            rotation: Rotation::default(),
            last: None,
            saved: None,
            terms,
            measured: settings.measured(val),
            saving: false,
            loaded: None,
        }
    }

    /// The best metric as evaluations name it.
    pub fn metric(&self) -> String {
        self.best.key()
    }

    /// The newest checkpoint.
    pub fn last(&self) -> Option<&Path> {
        self.last.as_deref()
    }

    /// Resumes from the checkpoint of the settings, if there is one: its weights, and unless they are all that is taken,
    /// optimizer, place in the data, counters and what callbacks keep.
    pub fn resume(
        &mut self,
        learner: &mut Learner,
        examples: &mut Examples,
        progress: &mut Progress,
        events: &mut Events,
    ) -> Result<()> {
        let settings = self.settings;
        let Some(resume) = &settings.resume else {
            return Ok(());
        };
        let schedule = &*learner.schedule.component;
        let (steps, rate) = (&progress.steps, settings.learning_rate);
        let same_rate = |saved: &TrainerState| saved.rates_are_those_of(steps, rate, schedule);
        let parts = Parts {
            model: learner.model,
            trained: self.trained,
            optimizer: &mut learner.optimizer,
            examples,
            args: &settings.config,
        };
        let saved = resume
            .restore(&self.terms, &same_rate, parts)
            .with_context(|| format!("{}: cannot be resumed", resume.dir.display()))?;
        let Some(saved) = saved else {
            return Ok(());
        };
        progress.resume(&saved, &self.measured, examples);
        self.best.resume(&saved, &mut progress.state);
        if let Some(by) = &saved.stopped {
            info!(
                "resume: {by}, has ended the run that is continued, after step {} of {}; it goes on from there",
                saved.global_step, saved.max_steps
            );
        }
        self.saved = Some(Saved::by(&saved));
        self.rotation = Rotation::resumed(&settings.run_dir, &progress.run_id, saved.global_step);
        self.last = Some(resume.dir.clone());
        events.resume_lr_factor(saved.lr_factor);
        learner.requested = saved.requested.clone();
        events.load_state(saved.stateful_callbacks)
    }

    /// Puts the trained weights of the checkpoint that is resumed from back, where it has others in their place.
    ///
    /// # Errors
    /// They are not as they were written.
    pub fn restore_trained(&self, learner: &Learner) -> Result<()> {
        match (&self.settings.resume, &self.saved) {
            (Some(resume), Some(_)) => set_aside::restore(learner, &resume.dir),
            _ => Ok(()),
        }
    }

    /// Whether the newest checkpoint is that of this step, by this run.
    fn has(&self, step: u64) -> bool {
        self.saved.as_ref().is_some_and(|saved| saved.step == step)
    }

    /// An evaluation of these weights gave these numbers. Whether it is the best so far, as far as that is known before
    /// callbacks have reported their numbers.
    pub fn evaluated(&mut self, values: &Map<String, Value>, state: &mut RunState) -> bool {
        let better = self.best.evaluated(values, state);
        self.note_best(state);
        better
    }

    /// Whether the evaluation of these weights waits for a number that a callback has to report.
    pub fn waits_for_a_number(&self, step: u64) -> bool {
        self.best.waits(step)
    }

    /// Whether the last `evaluation` is the best so far, by a number that a callback has reported.
    ///
    /// # Errors
    /// None has.
    pub fn compare_reported_metric(
        &mut self,
        evaluation: &Map<String, Value>,
        reported: &Map<String, Value>,
        state: &mut RunState,
    ) -> Result<bool> {
        let better = self.best.reported(evaluation, reported, state)?;
        self.note_best(state);
        Ok(better)
    }

    /// What was saved before it was evaluated may be the best checkpoint.
    fn note_best(&mut self, state: &mut RunState) {
        if self.has(state.global_step)
            && let Some(path) = &self.last
        {
            self.best.saved_at(path, state);
        }
    }

    /// Goes back to the best checkpoint, if that was asked for.
    pub fn load_best(&mut self, model: &CausalLm, state: &RunState) -> Result<()> {
        if !self.settings.load_best_model_at_end {
            return Ok(());
        }
        let Some(best) = state.best_model_checkpoint.clone() else {
            warning!(
                "load_best_model_at_end: no checkpoint was evaluated; the weights stay those of the last step"
            );
            return Ok(());
        };
        let load = || {
            self.trained.load(model, &best)?;
            Ok::<_, Error>(TrainerState::read(&best)?.global_step)
        };
        let step = load().context("load_best_model_at_end")?;
        self.loaded = Some((step, best));
        Ok(())
    }

    /// The step of the weights that the model has now.
    pub fn weights_step(&self, state: &RunState) -> u64 {
        let loaded = self.loaded.as_ref().map(|(step, _)| *step);
        loaded.unwrap_or(state.global_step)
    }

    /// The best checkpoint, where it was loaded.
    pub fn loaded(&self) -> Option<&Path> {
        self.loaded.as_ref().map(|(_, path)| path.as_path())
    }

    /// The best evaluation, where its weights are in no checkpoint: the metric and its value.
    pub fn unsaved_best(&self, state: &RunState) -> Option<(String, f64)> {
        let best = state
            .best_metric
            .filter(|&best| self.best.saved() != Some(best))?;
        Some((self.best.key(), best))
    }
}
