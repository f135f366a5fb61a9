//! When a checkpoint is written, and what is in it: when it is due, at the end, after a signal and after an error.

use super::super::learner::Learner;
use super::super::progress::Progress;
use super::super::reports::Reports;
use super::super::set_aside::SetAside;
use super::{Checkpoints, Saved};
use crate::train::checkpoint::{Checkpoint, OPTIMIZER_FILE, Rotation};
use crate::train::events::{Events, OtherWeight};
use crate::train::examples::Examples;
use crate::train::optimizer::Hook;
use crate::train::state::{TrainerState, VERSION, now};
use anyhow::{Context, Error, Result, anyhow};
use apus_base::lines::warning;
use apus_model::weights;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

impl Checkpoints<'_> {
    /// Saves a checkpoint and reports it.
    pub fn save(
        &mut self,
        learner: &mut Learner,
        progress: &mut Progress,
        events: &mut Events,
        (examples, reports): (&Examples, &Reports),
    ) -> Result<()> {
        learner.compare(progress.state.global_step)?;
        let kept = (events.save_state()?, events.evaluated_weights()?);
        let path = self.write(kept, learner, progress, events, (examples, reports))?;
        events.on_save(&path, &progress.state)?;
        self.keep_asked(events)?;
        let best = progress.state.best_model_checkpoint.as_deref();
        match self.settings.save_total_limit {
            Some(limit) => self.rotation.rotate(limit, best),
            None => Ok(()),
        }
    }

    /// Keeps the checkpoints that callbacks have asked to keep, and gives back those that they have released.
    pub fn keep_asked(&mut self, events: &mut Events) -> Result<()> {
        for (by, path, keep) in events.take_kept() {
            self.rotation
                .keep(&path, keep)
                .with_context(|| format!("{by}: asks to keep or release a checkpoint"))?;
        }
        Ok(())
    }

    /// Writes the newest checkpoint again, if callbacks ended the run or it was evaluated after it was saved.
    pub fn complete(
        &mut self,
        learner: &mut Learner,
        progress: &mut Progress,
        events: &Events,
        (examples, reports): (&Examples, &Reports),
    ) -> Result<()> {
        let (step, lines) = (progress.state.global_step, progress.state.log_history.len());
        let stopped = events.stopped().is_some();
        let older = |saved: &&Saved| {
            saved.step == step && (saved.lines != lines || saved.stopped != stopped)
        };
        let Some(kept) = self.saved.as_ref().filter(older).map(|s| s.kept.clone()) else {
            return Ok(());
        };
        let kept = (kept, events.evaluated_weights()?);
        self.write(kept, learner, progress, events, (examples, reports))
            .map(drop)
    }

    /// After a signal: saves what was trained since the newest checkpoint.
    pub fn save_unsaved_steps(
        &mut self,
        learner: &mut Learner,
        progress: &mut Progress,
        events: &mut Events,
        (examples, reports): (&Examples, &Reports),
    ) -> Result<()> {
        let step = progress.state.global_step;
        if step > 0 && !self.has(step) && self.loaded.is_none() {
            self.save(learner, progress, events, (examples, reports))?;
        }
        Ok(())
    }

    /// After an error: what was trained so far goes to a checkpoint, unless it is in one already, or is
    /// not worth it. The error says where, or which checkpoint is the newest.
    pub fn rescue(
        &mut self,
        error: Error,
        learner: &mut Learner,
        progress: &mut Progress,
        events: &Events,
        (examples, reports): (&Examples, &Reports),
    ) -> Error {
        let step = progress.state.global_step;
        // The best checkpoint's weights are saved already, and are not those of the last step.
        if step == 0 || self.loaded.is_some() {
            return error;
        }
        if self.saving {
            return self.with_newest(&error);
        }
        // Of this run: the folder may hold another one's of this number.
        let is_saved = self.has(step);
        let saved = match self.last.clone().filter(|_| is_saved) {
            Some(path) => Ok(path),
            None => learner.check_sound().and_then(|()| {
                let kept = events.save_state().unwrap_or_else(|error| {
                    warning!("what callbacks keep is not saved: {error:#}");
                    Map::new()
                });
                let weights = events.evaluated_weights().unwrap_or_else(|error| {
                    warning!("what is saved are the weights that are trained, not those of callbacks: {error:#}");
                    Vec::new()
                });
                let kept = (kept, weights);
                self.write(kept, learner, progress, events, (examples, reports))
            }),
        };
        match saved {
            Ok(path) => anyhow!(
                "{error:#}. The state after step {step} is saved in {}: go on with {}",
                path.display(),
                resume_flags(&path, self.settings.save_only_model)
            ),
            Err(also) => self.with_newest(&anyhow!(
                "{error:#}. The state after step {step} is not saved: {also:#}"
            )),
        }
    }

    /// The error, and the newest checkpoint.
    fn with_newest(&self, error: &Error) -> Error {
        match self.last.as_ref().filter(|path| path.is_dir()) {
            Some(path) => anyhow!(
                "{error:#}. The newest checkpoint is {}: go on with {}",
                path.display(),
                resume_flags(path, self.settings.save_only_model)
            ),
            None => anyhow!("{error:#}. There is no checkpoint yet"),
        }
    }

    /// Writes a checkpoint, with what callbacks keep and the weights that they give in place of trained ones.
    fn write(
        &mut self,
        (stateful_callbacks, others): (Map<String, Value>, Vec<OtherWeight>),
        learner: &mut Learner,
        progress: &mut Progress,
        events: &Events,
        (examples, reports): (&Examples, &Reports),
    ) -> Result<PathBuf> {
        let (settings, step) = (self.settings, progress.state.global_step);
        let requested = learner.requested.clone();
        let mut saved = TrainerState {
            requested,
            ..self.state(stateful_callbacks, progress, events)
        };
        let is_kept = self
            .rotation
            .is_kept(&Checkpoint::path(&settings.run_dir, step));
        self.saving = true;
        let path = learner.between([Hook::BeforeSaving, Hook::AfterSaving], |learner| {
            if !settings.save_only_model {
                saved.optimizer_state = learner.optimizer.own_state()?;
            }
            let mut fill = |dir: &Path, aside: &SetAside| {
                self.trained.save(learner.model, dir)?;
                if !settings.save_only_model {
                    aside.save(dir)?;
                    let state = learner.optimizer_state()?.into_iter().collect();
                    weights::save(&state, &dir.join(OPTIMIZER_FILE))?;
                    saved.sampler = examples.save_order(dir)?;
                }
                saved.write(dir)?;
                if is_kept {
                    Rotation::mark(dir)?;
                }
                Ok(std::fs::write(
                    dir.join("args.json"),
                    serde_json::to_string_pretty(&settings.config)?,
                )?)
            };
            SetAside::put(learner, others)?.during(learner, |aside| {
                Checkpoint::write(&settings.run_dir, step, |dir| fill(dir, aside))
            })
        })?;
        self.saving = false;
        self.saved = Some(Saved::by(&saved));
        self.best.saved_at(&path, &mut progress.state);
        self.last = Some(path.clone());
        self.rotation.saved(&path);
        reports.saved(step, &path);
        Ok(path)
    }

    /// What a checkpoint of this step keeps beside weights and the optimizer's state.
    fn state(
        &self,
        stateful_callbacks: Map<String, Value>,
        progress: &Progress,
        events: &Events,
    ) -> TrainerState {
        let state = &progress.state;
        let (train_examples, stream) = progress.position.clone();
        let best = self.best.makes_best(state.global_step);
        TrainerState {
            version: VERSION,
            saved: now(),
            terms: self.terms.clone(),
            measured: self.measured.clone(),
            run_id: progress.run_id.clone(),
            global_step: state.global_step,
            max_steps: progress.steps.total,
            epoch: state.epoch,
            best_metric: state.best_metric,
            best_model_checkpoint: match best {
                Some(_) => Some(Checkpoint::path(&self.settings.run_dir, state.global_step)),
                None => state.best_model_checkpoint.clone(),
            },
            best_saved_metric: best.or(self.best.saved()),
            stopped: events.stopped().map(str::to_owned),
            train_examples,
            stream,
            sampler: None,
            data_seed: self.settings.data_seed,
            seed: self.settings.seed,
            pending: progress.pending.clone(),
            log_history: state.log_history.clone(),
            lr_factor: events.lr_factor(),
            optimizer_state: Vec::new(),
            requested: Default::default(),
            accumulation: progress.steps.changes(),
            stateful_callbacks,
        }
    }
}

/// The flags that resume from a checkpoint.
pub fn resume_flags(checkpoint: &Path, only_model: bool) -> String {
    let flag = format!("--resume_from_checkpoint {}", checkpoint.display());
    match only_model {
        true => {
            flag + " --resume_only_model true (save_only_model leaves the rest of its state out)"
        }
        false => flag,
    }
}
