//! The training loop.

use super::batch::{MicroBatch, sequence};
use super::checkpoint::{Checkpoint, OPTIMIZER_FILE};
use super::clock::{Clock, human};
use super::evaluate::{Metrics, evaluate};
use super::events::Events;
use super::gradient_check;
use super::logs::Trackers;
use super::optimizer::OptimizerHost;
use super::order::order;
use super::progress::Progress;
use super::settings::Settings;
use super::signals;
use super::state::{Pending, TrainerState};
use super::steps::{Steps, Wanted};
use crate::model::{ForwardOptions, GptOss};
use anyhow::{Context, Result};
use apus_sdk::{
    Callback, EndState, Loss, LrSchedule, Optimizer, RunInfo, RunState, TokenRow, Tracker,
};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The components of a run.
pub struct Components {
    /// Loss.
    pub loss: Box<dyn Loss>,
    /// Optimizer.
    pub optimizer: Box<dyn Optimizer>,
    /// Schedule.
    pub schedule: Box<dyn LrSchedule>,
    /// Callbacks with their names.
    pub callbacks: Vec<(String, Box<dyn Callback>)>,
    /// Metrics with their names.
    pub metrics: Metrics,
    /// Trackers with their names.
    pub trackers: Vec<(String, Box<dyn Tracker>)>,
}

/// How the model's trained part is written and read; and how it answers a prompt.
pub trait ModelFiles {
    /// File that holds the weights in a checkpoint.
    fn weights_file(&self) -> &'static str;

    /// Writes the trained part of the model into a folder.
    ///
    /// # Errors
    /// The disk failed.
    fn save(&self, model: &GptOss, dir: &Path) -> Result<()>;

    /// Reads it back.
    ///
    /// # Errors
    /// Files that are missing or do not fit.
    fn load(&self, model: &GptOss, dir: &Path) -> Result<()>;

    /// The model's answer to a prompt.
    ///
    /// # Errors
    /// No tokenizer, or out of memory.
    fn answer(&self, model: &GptOss, prompt: &str) -> Result<String>;
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Whether a signal ended it.
    pub interrupted: bool,
    /// The last checkpoint.
    pub last_checkpoint: Option<PathBuf>,
    /// The best checkpoint.
    pub best_checkpoint: Option<PathBuf>,
    /// The last line of the log.
    pub summary: Map<String, Value>,
}

/// A run.
pub struct Trainer<'a> {
    model: &'a GptOss,
    files: &'a dyn ModelFiles,
    settings: &'a Settings,
    train: &'a [TokenRow],
    val: &'a [TokenRow],
    loss: Box<dyn Loss>,
    schedule: Box<dyn LrSchedule>,
    metrics: Metrics,
    optimizer: OptimizerHost,
    events: Events,
    trackers: Trackers,
    steps: Steps,
    state: RunState,
    pending: Pending,
    clock: Clock,
    progress: Progress,
    last_checkpoint: Option<PathBuf>,
    lr_factor: f64,
}

impl<'a> Trainer<'a> {
    /// Gets a run ready: components in place, checkpoint restored, trackers started.
    ///
    /// # Errors
    /// Nothing to train on, or a checkpoint that cannot be continued.
    pub fn new(
        model: &'a GptOss,
        files: &'a dyn ModelFiles,
        settings: &'a Settings,
        (train, val): (&'a [TokenRow], &'a [TokenRow]),
        components: Components,
    ) -> Result<Self> {
        let steps = Steps::new(&Wanted {
            examples: train.len(),
            batch_size: settings.per_device_train_batch_size,
            accumulation: settings.gradient_accumulation_steps,
            epochs: settings.num_train_epochs,
            max_steps: settings.max_steps,
            warmup_ratio: settings.warmup_ratio,
            warmup_steps: settings.warmup_steps,
        })?;
        let mut optimizer = OptimizerHost::new(
            components.optimizer,
            model.params().to_vec(),
            settings.lorap_lr_ratio,
        );
        let mut state = RunState {
            max_steps: steps.total,
            num_train_epochs: steps.total as f64 / steps.per_epoch as f64,
            greater_is_better: settings.greater_is_better,
            output_dir: settings.run_dir.clone(),
            ..RunState::default()
        };
        let mut pending = Pending::default();
        if let Some(dir) = &settings.resume_from_checkpoint {
            let saved = restore(dir, model, files, &mut optimizer, train.len(), settings)
                .with_context(|| format!("{}: cannot be resumed", dir.display()))?;
            saved.restore(&mut state);
            pending = saved.pending;
        }
        let progress = Progress::new(steps.total, state.global_step);
        let info = RunInfo {
            name: settings.run_name.clone(),
            dir: settings.run_dir.clone(),
            config: settings.config.clone(),
            max_steps: steps.total,
            resumed_at: state.global_step,
            interactive: progress.visible(),
        };
        Ok(Self {
            model,
            files,
            settings,
            train,
            val,
            loss: components.loss,
            schedule: components.schedule,
            metrics: components.metrics,
            optimizer,
            events: Events::new(components.callbacks),
            trackers: Trackers::start(components.trackers, &info),
            clock: Clock::start(state.global_step),
            steps,
            state,
            pending,
            progress,
            last_checkpoint: settings.resume_from_checkpoint.clone(),
            lr_factor: 1.0,
        })
    }

    /// Steps and epochs of the run.
    pub fn steps(&self) -> &Steps {
        &self.steps
    }

    /// Trains.
    ///
    /// # Errors
    /// Anything that stops a run; trackers have been told.
    pub fn run(mut self, extra_summary: Map<String, Value>) -> Result<Outcome> {
        let result = self.train();
        self.progress.finish();
        match result {
            Ok(interrupted) => {
                let mut summary = self.summary();
                summary.extend(extra_summary);
                self.trackers.finish(&match interrupted {
                    true => EndState::Interrupted,
                    false => EndState::Finished(summary.clone()),
                });
                Ok(Outcome {
                    interrupted,
                    last_checkpoint: self.last_checkpoint,
                    best_checkpoint: self.state.best_model_checkpoint,
                    summary,
                })
            }
            Err(error) => {
                self.trackers
                    .finish(&EndState::Crashed(format!("{error:#}")));
                Err(error)
            }
        }
    }

    /// The recipe: epochs of steps, and after each step what is due. Returns whether a signal ended it.
    fn train(&mut self) -> Result<bool> {
        self.events.on_init_end(&self.state)?;
        self.events.on_train_begin(&self.state)?;
        let mut indices = Vec::new();
        let mut interrupted = false;
        while self.state.global_step < self.steps.total {
            let step = self.state.global_step;
            let epoch = self.steps.epoch_of(step);
            let batches = self.steps.batches_of(step);
            if indices.is_empty() || batches.start == 0 {
                let s = self.settings;
                indices = order(self.train.len(), s.data_seed, epoch, s.shuffle);
                self.events.on_epoch_begin(&self.state)?;
            }
            let size = self.settings.per_device_train_batch_size;
            let groups: Vec<&[usize]> = indices
                .chunks(size)
                .skip(batches.start)
                .take(batches.len())
                .collect();
            self.step(&groups)
                .with_context(|| format!("step {}", step + 1))?;
            let ends_epoch = self.steps.ends_epoch(step);
            if ends_epoch {
                self.events.on_epoch_end(&self.state)?;
            }
            interrupted = signals::asked();
            self.what_is_due(ends_epoch, interrupted)?;
            if interrupted || self.events.control.should_training_stop {
                break;
            }
        }
        if self.settings.load_best_model_at_end
            && !interrupted
            && let Some(best) = &self.state.best_model_checkpoint
        {
            self.files
                .load(self.model, best)
                .context("load_best_model_at_end")?;
        }
        self.events.on_train_end(&self.state)?;
        Ok(interrupted)
    }

    /// One optimizer step over its micro-batches.
    fn step(&mut self, groups: &[&[usize]]) -> Result<()> {
        let started = Instant::now();
        self.events.on_step_begin(&self.state)?;
        let batches: Vec<MicroBatch> = groups
            .iter()
            .map(|group| {
                let rows = group.iter().map(|&i| sequence(&self.train[i]));
                MicroBatch::new(rows, self.model.device())
            })
            .collect::<Result<_>>()?;
        let window: usize = batches.iter().map(MicroBatch::targets).sum();
        let (mut loss, mut aux, mut right, mut tokens) = (0.0, 0.0, 0, 0);
        for (index, batch) in batches.iter().enumerate() {
            let options = self.forward_options(index);
            let found = batch
                .train(self.model, self.loss.as_ref(), window, &options)
                .with_context(|| format!("micro-batch {index} (examples {:?})", groups[index]))?;
            let hits = found
                .loss
                .tokens
                .labels
                .iter()
                .zip(&found.loss.tokens.predictions);
            right += hits
                .filter(|(label, prediction)| label == prediction)
                .count() as u64;
            loss += found.loss.sum / window.max(1) as f64;
            aux += found.aux.unwrap_or(0.0) * batch.targets() as f64 / window.max(1) as f64;
            tokens += batch.tokens();
            if index + 1 < batches.len() {
                self.events.on_substep_end(&self.state)?;
            }
        }
        if self.clock.tokens == 0 {
            gradient_check::check(self.optimizer.params())?;
        }
        let grad_norm = self.optimizer.clip(self.settings.max_grad_norm)?;
        self.events.on_pre_optimizer_step(&self.state)?;
        let lr = self.learning_rate()?;
        self.optimizer.step(lr)?;
        self.events.on_optimizer_step(&self.state)?;
        self.optimizer.zero_grad();
        self.model.device().synchronize()?;

        self.clock.count(started.elapsed(), tokens);
        self.state.global_step += 1;
        self.state.epoch = self.steps.epochs_after(self.state.global_step);
        self.state.learning_rate = lr;
        self.state.loss = Some(loss);
        self.state.grad_norm = Some(grad_norm);
        self.pending.steps += 1;
        self.pending.loss += loss;
        self.pending.aux_loss += aux;
        self.pending.right += right;
        self.pending.tokens += window as u64;
        self.progress
            .step(loss, lr, tokens as f64 / started.elapsed().as_secs_f64());
        self.events.on_step_end(&self.state)
    }

    fn forward_options(&self, micro_batch: usize) -> ForwardOptions {
        let s = self.settings;
        let step = self.state.global_step.wrapping_mul(1 << 20) + micro_batch as u64;
        ForwardOptions {
            training: true,
            kept_layers: s.kept_layers,
            dropout_seed: Some(s.seed.rotate_left(40) ^ step),
            aux_coef: s.router_aux_loss_coef,
        }
    }

    fn learning_rate(&self) -> Result<f64> {
        let progress = apus_sdk::Progress {
            step: self.state.global_step,
            total: self.steps.total,
            warmup: self.steps.warmup,
            learning_rate: self.settings.learning_rate,
        };
        let factor = self
            .schedule
            .factor(&progress)
            .context("in the schedule component")?;
        Ok(self.settings.learning_rate * factor * self.lr_factor)
    }

    /// Logs, evaluates, saves and generates as intervals, callbacks and the end of the run ask for.
    fn what_is_due(&mut self, ends_epoch: bool, interrupted: bool) -> Result<()> {
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
            s.evaluate.due(step, ends_epoch) || (last && s.evaluate != super::Every::Never);
        if !self.val.is_empty() && (evaluation_due || asked) && !interrupted {
            self.evaluate()?;
        }
        let asked = std::mem::take(&mut self.events.control.should_save);
        let saving_due = s.save.due(step, ends_epoch) || (last && s.save != super::Every::Never);
        if saving_due || asked || interrupted {
            self.save()?;
        }
        for prompt in std::mem::take(&mut self.events.control.generate) {
            let answer = self.files.answer(self.model, &prompt)?;
            self.progress
                .around(|| self.trackers.text(step, &prompt, &answer));
        }
        Ok(())
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
        self.progress.around(|| self.trackers.log(step, &values));
        Ok(())
    }

    fn evaluate(&mut self) -> Result<()> {
        let (events, state) = (&mut self.events, &self.state);
        let mut values = evaluate(
            self.model,
            self.loss.as_ref(),
            &mut self.metrics,
            self.val,
            self.settings.per_device_eval_batch_size,
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

    fn save(&mut self) -> Result<()> {
        let (s, step) = (self.settings, self.state.global_step);
        let saved = TrainerState {
            global_step: step,
            max_steps: self.steps.total,
            epoch: self.state.epoch,
            best_metric: self.state.best_metric,
            best_model_checkpoint: self.state.best_model_checkpoint.clone(),
            train_examples: self.train.len(),
            data_seed: s.data_seed,
            seed: s.seed,
            pending: self.pending.clone(),
            log_history: self.state.log_history.clone(),
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
        self.events.on_save(&path, &self.state)?;
        match s.save_total_limit {
            Some(limit) => Checkpoint::rotate(
                &s.run_dir,
                limit,
                self.state.best_model_checkpoint.as_deref(),
            ),
            None => Ok(()),
        }
    }

    /// The last line of the log, by ms-swift's names.
    fn summary(&self) -> Map<String, Value> {
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

/// Puts a checkpoint back into model and optimizer.
fn restore(
    dir: &Path,
    model: &GptOss,
    files: &dyn ModelFiles,
    optimizer: &mut OptimizerHost,
    examples: usize,
    settings: &Settings,
) -> Result<TrainerState> {
    Checkpoint::check(dir, files.weights_file())?;
    let saved = TrainerState::read(dir)?;
    anyhow::ensure!(
        saved.train_examples == examples,
        "it was made with {} training examples, this run has {examples}: the order of the data \
         would differ; use the same dataset and split",
        saved.train_examples
    );
    anyhow::ensure!(
        saved.data_seed == settings.data_seed && saved.seed == settings.seed,
        "it was made with seed {} and data_seed {}, this run has {} and {}",
        saved.seed,
        saved.data_seed,
        settings.seed,
        settings.data_seed
    );
    files.load(model, dir)?;
    let state = candle_core::safetensors::load(dir.join(OPTIMIZER_FILE), model.device())?;
    optimizer.restore(
        saved.global_step,
        state.into_iter().collect(),
        model.device(),
    )?;
    Ok(saved)
}
