//! What is due after a step: log lines, evaluations, checkpoints, generated samples; and the summary at the end.

use super::super::checkpoint::{Checkpoint, OPTIMIZER_FILE};
use super::super::clock::human;
use super::super::evaluate::{Evaluation, evaluate};
use super::super::settings::Every;
use super::super::state::{Pending, TrainerState};
use super::Trainer;
use crate::ops::reduce;
use crate::say::warning;
use anyhow::{Context, Error, Result, anyhow, ensure};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

impl Trainer<'_> {
    /// Logs, evaluates, saves and generates as intervals, callbacks and the end of the run ask for.
    pub(super) fn what_is_due(&mut self, ends_epoch: bool, interrupted: bool) -> Result<()> {
        let (s, step) = (self.settings, self.state.global_step);
        let last = step == self.steps.total || self.events.control.should_training_stop;
        if let Some(factor) = self.events.control.lr_factor {
            self.lr_factor = factor;
        }
        if step.is_multiple_of(s.logging_steps.max(1))
            || (step == 1 && s.logging_first_step)
            || last
            || std::mem::take(&mut self.events.control.should_log)
        {
            self.log()?;
        }
        let asked = std::mem::take(&mut self.events.control.should_evaluate);
        let evaluation_due =
            s.evaluate.due(step, ends_epoch) || (last && s.evaluate != Every::Never);
        if !self.val.is_empty() && (evaluation_due || asked) && !interrupted {
            self.evaluate()?;
        }
        let asked = std::mem::take(&mut self.events.control.should_save);
        let saving_due = s.save.due(step, ends_epoch) || (last && s.save != Every::Never);
        if saving_due || asked || interrupted {
            self.save()?;
        }
        if evaluation_due && !last && !interrupted {
            self.answer_samples()?;
        }
        for prompt in std::mem::take(&mut self.events.control.generate) {
            let answer = self.files.answer(self.model, &prompt)?;
            self.trackers.text(step, &prompt, &answer);
            self.events.on_generate(&prompt, &answer, &self.state)?;
        }
        Ok(())
    }

    /// Answers the sample prompts and shows them to the trackers.
    pub(super) fn answer_samples(&self) -> Result<Vec<String>> {
        let step = self.state.global_step;
        let prompts = &self.settings.sample_prompts;
        let answers = prompts.iter().map(|prompt| {
            let answer = self.files.answer(self.model, prompt)?;
            self.trackers.text(step, prompt, &answer);
            Ok(answer)
        });
        answers.collect()
    }

    fn log(&mut self) -> Result<()> {
        let Pending {
            steps,
            loss,
            aux_loss,
            right,
            tokens,
        } = std::mem::take(&mut self.pending);
        if steps == 0 {
            return Ok(());
        }
        let mut values = Map::new();
        values.insert("loss".to_owned(), json!(loss / steps as f64));
        values.insert("grad_norm".to_owned(), json!(self.state.grad_norm));
        values.insert("learning_rate".to_owned(), json!(self.state.learning_rate));
        if self.settings.router_aux_loss_coef != 0.0 {
            values.insert("aux_loss".to_owned(), json!(aux_loss / steps as f64));
        }
        values.insert(
            "token_acc".to_owned(),
            json!(right as f64 / tokens.max(1) as f64),
        );
        values.insert("epoch".to_owned(), json!(self.state.epoch));
        self.add_progress(&mut values);
        values.insert(
            "tokens_per_second".to_owned(),
            json!(self.clock.window_rate()),
        );
        self.report(values)
    }

    /// The progress keys that ms-swift adds to every line.
    fn add_progress(&self, values: &mut Map<String, Value>) {
        let (step, total) = (self.state.global_step, self.steps.total);
        values.insert(
            "global_step/max_steps".to_owned(),
            json!(format!("{step}/{total}")),
        );
        values.insert(
            "elapsed_time".to_owned(),
            json!(human(self.clock.elapsed())),
        );
        let left = human(self.clock.remaining(step, total));
        values.insert("remaining_time".to_owned(), json!(left));
        values.insert("memory(GiB)".to_owned(), json!(self.peak_gib()));
        values.insert(
            "train_speed(s/it)".to_owned(),
            json!(self.clock.seconds_per_step(step)),
        );
    }

    fn peak_gib(&self) -> Option<f64> {
        let bytes = crate::memory::peak(self.model.device())?;
        Some((bytes as f64 / f64::from(1u32 << 30) * 100.0).round() / 100.0)
    }

    fn report(&mut self, mut values: Map<String, Value>) -> Result<()> {
        self.events.on_log(&mut values, &self.state)?;
        self.state.log_history.push(values.clone());
        let step = self.state.global_step;
        self.trackers.log(step, &values);
        Ok(())
    }

    fn evaluate(&mut self) -> Result<()> {
        let (events, state) = (&mut self.events, &self.state);
        let mut values = evaluate(
            self.model,
            &self.loss,
            &mut self.metrics,
            &Evaluation {
                examples: self.val,
                batch_size: self.settings.per_device_eval_batch_size,
                decoder: self.files,
            },
            || events.on_prediction_step(state),
        )?;
        let name = &self.settings.metric_for_best_model;
        let key = if name.starts_with("eval_") {
            name.clone()
        } else {
            format!("eval_{name}")
        };
        let metric = values.get(&key).and_then(Value::as_f64).with_context(|| {
            let known: Vec<&str> = values.keys().map(String::as_str).collect();
            format!(
                "metric_for_best_model is {name:?}, the evaluation gave {}",
                known.join(", ")
            )
        })?;
        let better = match self.state.best_metric {
            None => true,
            Some(best) if self.settings.greater_is_better => metric > best,
            Some(best) => metric < best,
        };
        if better {
            self.state.best_metric = Some(metric);
            let step = self.state.global_step;
            self.state.best_model_checkpoint = Some(Checkpoint::path(&self.settings.run_dir, step));
        }
        values.insert("epoch".to_owned(), json!(self.state.epoch));
        self.add_progress(&mut values);
        self.events.on_evaluate(&values, &self.state)?;
        self.report(values)
    }

    /// Saves a checkpoint and tells of it.
    fn save(&mut self) -> Result<()> {
        let kept = self.events.save_state()?;
        self.saving = true;
        let path = self.write(kept)?;
        self.saving = false;
        self.events.on_save(&path, &self.state)?;
        let s = self.settings;
        match s.save_total_limit {
            Some(limit) => Checkpoint::rotate(
                &s.run_dir,
                limit,
                self.state.best_model_checkpoint.as_deref(),
            ),
            None => Ok(()),
        }
    }

    /// After an error: what was trained so far goes to a checkpoint, unless it is in one already, or is
    /// not worth it. The error says where.
    pub(super) fn rescue(&mut self, error: Error) -> Error {
        let step = self.state.global_step;
        if step == 0 || self.saving {
            return error;
        }
        let path = Checkpoint::path(&self.settings.run_dir, step);
        let saved = match path.is_dir() {
            true => Ok(path),
            false => self.write_if_sound(),
        };
        match saved {
            Ok(path) => anyhow!(
                "{error:#}. The state after step {step} is saved in {0}: go on with \
                 --resume_from_checkpoint {0}",
                path.display()
            ),
            Err(also) => anyhow!("{error:#}. The state after step {step} is not saved: {also:#}"),
        }
    }

    fn write_if_sound(&mut self) -> Result<PathBuf> {
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
        let (train_examples, stream) = self.examples.state();
        let saved = TrainerState {
            run_id: self.run_id.clone(),
            global_step: step,
            max_steps: self.steps.total,
            epoch: self.state.epoch,
            best_metric: self.state.best_metric,
            best_model_checkpoint: self.state.best_model_checkpoint.clone(),
            train_examples,
            stream,
            data_seed: s.data_seed,
            seed: s.seed,
            pending: self.pending.clone(),
            log_history: self.state.log_history.clone(),
            lr_factor: self.lr_factor,
            stateful_callbacks,
        };
        let path = Checkpoint::write(&s.run_dir, step, |dir| {
            self.files.save(self.model, dir)?;
            if !s.save_only_model {
                let state = self.optimizer.state()?.into_iter().collect();
                candle_core::safetensors::save(&state, dir.join(OPTIMIZER_FILE))?;
            }
            std::fs::write(
                dir.join(TrainerState::FILE),
                serde_json::to_string_pretty(&saved)?,
            )?;
            Ok(std::fs::write(
                dir.join("args.json"),
                serde_json::to_string_pretty(&s.config)?,
            )?)
        })?;
        self.last_checkpoint = Some(path.clone());
        self.trackers.saved(step, &path);
        Ok(path)
    }

    /// The last line of the log, by ms-swift's names.
    pub(super) fn summary(&self) -> Map<String, Value> {
        let seconds = self.clock.elapsed().as_secs_f64();
        let made = self.state.global_step;
        let losses: Vec<f64> = self
            .state
            .log_history
            .iter()
            .filter_map(|line| line.get("loss")?.as_f64())
            .collect();
        let mut values = Map::new();
        let mut put = |name: &str, value: Value| values.insert(name.to_owned(), value);
        put("train_runtime", json!(seconds));
        put("train_steps_per_second", json!(made as f64 / seconds));
        put(
            "train_loss",
            json!(losses.iter().sum::<f64>() / losses.len().max(1) as f64),
        );
        put("tokens_per_second", json!(self.clock.rate()));
        put("train_tokens", json!(self.clock.tokens));
        put("epoch", json!(self.state.epoch));
        put("global_step", json!(made));
        put("last_model_checkpoint", json!(self.last_checkpoint));
        put(
            "best_model_checkpoint",
            json!(self.state.best_model_checkpoint),
        );
        put("best_metric", json!(self.state.best_metric));
        put("memory(GiB)", json!(self.peak_gib()));
        values
    }
}
