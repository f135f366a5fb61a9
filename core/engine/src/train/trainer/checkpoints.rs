//! Checkpoints of a run, the best among them, and what is saved after an error.

use super::super::checkpoint::{Checkpoint, OPTIMIZER_FILE};
use super::super::state::{TrainerState, VERSION, now};
use super::Trainer;
use anyhow::{Context, Error, Result, anyhow, ensure};
use apus_base::say::warning;
use apus_model::ops::reduce;
use apus_model::weights;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A checkpoint that is on the disk, and what it knows.
pub(super) struct Saved {
    pub(super) step: u64,
    /// What callbacks keep, from before they heard of this checkpoint.
    kept: Map<String, Value>,
    /// Lines of the log.
    lines: usize,
    stopped: bool,
}

impl Saved {
    /// The checkpoint with this state.
    pub(super) fn by(state: &TrainerState) -> Self {
        Self {
            step: state.global_step,
            kept: state.stateful_callbacks.clone(),
            lines: state.log_history.len(),
            stopped: state.stopped.is_some(),
        }
    }
}

impl Trainer<'_> {
    /// Saves a checkpoint and tells of it.
    pub(super) fn save(&mut self) -> Result<()> {
        let kept = self.events.save_state()?;
        let path = self.write(kept)?;
        self.events.on_save(&path, &self.state)?;
        let best = self.state.best_model_checkpoint.as_deref();
        match self.settings.save_total_limit {
            Some(limit) => self.rotation.rotate(limit, best),
            None => Ok(()),
        }
    }

    /// After an error: what was trained so far goes to a checkpoint, unless it is in one already, or is
    /// not worth it. The error says where, or which checkpoint is the newest.
    pub(super) fn rescue(&mut self, error: Error) -> Error {
        let step = self.state.global_step;
        // The best checkpoint's weights are saved already, and are not those of the last step.
        if step == 0 || self.loaded.is_some() {
            return error;
        }
        if self.saving {
            return self.with_newest(&error);
        }
        // Of this run: the folder may hold another one's of this number.
        let is_saved = self.saved.as_ref().is_some_and(|saved| saved.step == step);
        let saved = match self.last_checkpoint.clone().filter(|_| is_saved) {
            Some(path) => Ok(path),
            None => self.write_if_sound(),
        };
        match saved {
            Ok(path) => anyhow!(
                "{error:#}. The state after step {step} is saved in {}: go on with {}",
                path.display(),
                how_to_go_on(&path, self.settings.save_only_model)
            ),
            Err(also) => self.with_newest(&anyhow!(
                "{error:#}. The state after step {step} is not saved: {also:#}"
            )),
        }
    }

    /// The error, and the newest checkpoint.
    fn with_newest(&self, error: &Error) -> Error {
        match self.last_checkpoint.as_ref().filter(|path| path.is_dir()) {
            Some(path) => anyhow!(
                "{error:#}. The newest checkpoint is {}: go on with {}",
                path.display(),
                how_to_go_on(path, self.settings.save_only_model)
            ),
            None => anyhow!("{error:#}. There is no checkpoint yet"),
        }
    }

    fn write_if_sound(&mut self) -> Result<PathBuf> {
        ensure!(
            !self.optimizer.is_torn(),
            "the optimizer was in the middle of the next step"
        );
        let values: Vec<_> = self.optimizer.params().map(|param| param.value()).collect();
        ensure!(reduce::square_sum(&values)?.is_finite(), "it is not finite");
        let kept = self.events.save_state().unwrap_or_else(|error| {
            warning!("what callbacks keep is not saved: {error:#}");
            Map::new()
        });
        self.write(kept)
    }

    /// Writes a checkpoint, with what callbacks keep.
    fn write(&mut self, stateful_callbacks: Map<String, Value>) -> Result<PathBuf> {
        let (s, step) = (self.settings, self.state.global_step);
        let (train_examples, stream) = self.position.clone();
        let path = Checkpoint::path(&s.run_dir, step);
        let best = self.best.makes_best(step);
        let saved = TrainerState {
            version: VERSION,
            saved: now(),
            terms: self.terms.clone(),
            measured: self.measured.clone(),
            run_id: self.run_id.clone(),
            global_step: step,
            max_steps: self.steps.total,
            epoch: self.state.epoch,
            best_metric: self.state.best_metric,
            best_model_checkpoint: match best {
                Some(_) => Some(path),
                None => self.state.best_model_checkpoint.clone(),
            },
            best_saved_metric: best.or(self.best.saved()),
            stopped: self.events.stopped().map(str::to_owned),
            train_examples,
            stream,
            data_seed: s.data_seed,
            seed: s.seed,
            pending: self.pending.clone(),
            log_history: self.state.log_history.clone(),
            lr_factor: self.events.lr_factor(),
            stateful_callbacks,
        };
        self.saving = true;
        let path = Checkpoint::write(&s.run_dir, step, |dir| {
            self.files.save(self.model, dir)?;
            if !s.save_only_model {
                let state = self.optimizer.state()?.into_iter().collect();
                weights::save(&state, &dir.join(OPTIMIZER_FILE))?;
            }
            saved.write(dir)?;
            Ok(std::fs::write(
                dir.join("args.json"),
                serde_json::to_string_pretty(&s.config)?,
            )?)
        })?;
        self.saving = false;
        self.saved = Some(Saved::by(&saved));
        self.best.saved_at(&path, &mut self.state);
        self.last_checkpoint = Some(path.clone());
        self.rotation.saved(&path);
        self.trackers.saved(step, &path);
        Ok(path)
    }

    /// Writes the last checkpoint again, if callbacks ended the run or it was evaluated after it was saved.
    pub(super) fn complete_checkpoint(&mut self) -> Result<()> {
        let (step, lines) = (self.state.global_step, self.state.log_history.len());
        let stopped = self.events.stopped().is_some();
        let older = |saved: &&Saved| {
            saved.step == step && (saved.lines != lines || saved.stopped != stopped)
        };
        match self.saved.as_ref().filter(older) {
            Some(saved) => self.write(saved.kept.clone()).map(drop),
            None => Ok(()),
        }
    }

    /// Whether the evaluation of these weights is the best so far, by the number that a callback reported.
    pub(super) fn judge(&mut self) -> Result<bool> {
        let empty = Map::new();
        let values = self
            .evaluation
            .as_ref()
            .map_or(&empty, |(_, values)| values);
        let reported = self.events.reported();
        let better = self.best.reported(values, reported, &mut self.state)?;
        self.note_best();
        Ok(better)
    }

    /// What was saved before it was evaluated may be the best checkpoint.
    pub(super) fn note_best(&mut self) {
        let step = self.state.global_step;
        if self.saved.as_ref().is_some_and(|saved| saved.step == step)
            && let Some(path) = &self.last_checkpoint
        {
            self.best.saved_at(path, &mut self.state);
        }
    }

    /// Goes back to the best checkpoint, if that was asked for.
    pub(super) fn load_best(&mut self) -> Result<()> {
        if !self.settings.load_best_model_at_end {
            return Ok(());
        }
        let Some(best) = self.state.best_model_checkpoint.clone() else {
            warning!(
                "load_best_model_at_end: no checkpoint was evaluated; the weights stay those of the last step"
            );
            return Ok(());
        };
        let load = || {
            self.files.load(self.model, &best)?;
            Ok::<_, Error>(TrainerState::read(&best)?.global_step)
        };
        let step = load().context("load_best_model_at_end")?;
        self.loaded = Some((step, best));
        Ok(())
    }

    /// The step of the weights that the model has now.
    pub(super) fn weights_step(&self) -> u64 {
        let loaded = self.loaded.as_ref().map(|(step, _)| *step);
        loaded.unwrap_or(self.state.global_step)
    }
}

/// The flags that go on from a checkpoint.
pub fn how_to_go_on(checkpoint: &Path, only_model: bool) -> String {
    let flag = format!("--resume_from_checkpoint {}", checkpoint.display());
    match only_model {
        true => {
            flag + " --resume_only_model true (save_only_model leaves the rest of its state out)"
        }
        false => flag,
    }
}
