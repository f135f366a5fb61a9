//! The training loop.

mod due;

use super::about;
use super::batch::{MicroBatch, sequence};
use super::checkpoint::{Checkpoint, OPTIMIZER_FILE};
use super::clock::Clock;
use super::events::Events;
use super::examples::{Examples, Group};
use super::gradient_check;
use super::logs::Trackers;
use super::optimizer::OptimizerHost;
use super::out_of_memory;
use super::pictures::Pictures;
use super::screen::{Screen, StepNumbers};
use super::settings::Settings;
use super::state::{Pending, TrainerState};
use super::steps::{Steps, Wanted};
use crate::model::{ForwardOptions, GptOss};
use crate::registry::Named;
use crate::say::{info, warning};
use crate::signals;
use anyhow::{Context, Result, ensure};
use apus_sdk::{
    Callback, Decoder, EndState, Loss, LrSchedule, Metric, Optimizer, RunInfo, RunState, TokenRow,
    Tracker,
};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The components of a run.
pub struct Components {
    /// Loss.
    pub loss: Named<dyn Loss>,
    /// Optimizer.
    pub optimizer: Named<dyn Optimizer>,
    /// Schedule.
    pub schedule: Named<dyn LrSchedule>,
    /// Callbacks.
    pub callbacks: Vec<Named<dyn Callback>>,
    /// Metrics.
    pub metrics: Vec<Named<dyn Metric>>,
    /// Trackers.
    pub trackers: Vec<Named<dyn Tracker>>,
}

/// How the model's trained part is written and read; how it answers a prompt and spells tokens.
pub trait ModelFiles: Decoder {
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
    /// Answers to the sample prompts before the first step.
    pub before: Vec<String>,
    /// Answers after the last step; none where a signal ended the run.
    pub after: Vec<String>,
}

/// A run.
pub struct Trainer<'a> {
    model: &'a GptOss,
    files: &'a dyn ModelFiles,
    settings: &'a Settings,
    examples: Examples<'a>,
    val: &'a [TokenRow],
    loss: Named<dyn Loss>,
    schedule: Named<dyn LrSchedule>,
    metrics: Vec<Named<dyn Metric>>,
    optimizer: OptimizerHost,
    events: Events,
    trackers: Trackers,
    steps: Steps,
    state: RunState,
    pending: Pending,
    clock: Clock,
    screen: Screen,
    last_checkpoint: Option<PathBuf>,
    lr_factor: f64,
    saving: bool,
    run_id: String,
    before: Vec<String>,
    after: Vec<String>,
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
        (mut examples, val): (Examples<'a>, &'a [TokenRow]),
        components: Components,
    ) -> Result<Self> {
        let steps = Steps::new(&Wanted {
            examples: examples.of_epoch(settings)?,
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
        let mut events = Events::new(components.callbacks);
        let mut lr_factor = 1.0;
        let mut run_id = about::new_id();
        if let Some(dir) = &settings.resume_from_checkpoint {
            let saved = restore(dir, model, files, &mut optimizer, &mut examples, settings)
                .with_context(|| format!("{}: cannot be resumed", dir.display()))?;
            saved.restore(&mut state);
            events.load_state(saved.stateful_callbacks)?;
            lr_factor = saved.lr_factor;
            if !saved.run_id.is_empty() {
                run_id = saved.run_id;
            }
            pending = saved.pending;
        }
        let title = settings.run_dir.file_name().unwrap_or_default();
        let title = title.to_string_lossy();
        let screen = Screen::open(&title, steps.total, state.global_step, settings.tui);
        let info = RunInfo {
            name: settings.run_name.clone(),
            dir: settings.run_dir.clone(),
            config: settings.config.clone(),
            max_steps: steps.total,
            resumed_at: state.global_step,
            interactive: screen.draws(),
            id: run_id.clone(),
            model: settings.model.clone(),
            ..about::process()
        };
        let mut trackers = Trackers::start(
            components.trackers,
            &info,
            &screen,
            settings.tracker_timeout,
        );
        if settings.plot {
            trackers.draw(Pictures::new(&settings.run_dir));
        }
        trackers.watch_machine(crate::device::bus_address(model.device()));
        Ok(Self {
            model,
            files,
            settings,
            examples,
            val,
            loss: components.loss,
            schedule: components.schedule,
            metrics: components.metrics,
            optimizer,
            events,
            trackers,
            clock: Clock::start(state.global_step),
            steps,
            state,
            pending,
            screen,
            last_checkpoint: settings.resume_from_checkpoint.clone(),
            lr_factor,
            saving: false,
            run_id,
            before: Vec::new(),
            after: Vec::new(),
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
        self.screen.close();
        match result {
            Ok(interrupted) => {
                let mut summary = self.summary();
                summary.extend(extra_summary);
                if let Some((report, warnings)) = self.examples.streamed_report() {
                    info!("data\n{report}");
                    warnings.iter().for_each(|line| warning!("{line}"));
                    summary.insert("train_dataset".to_owned(), report.into());
                }
                let end = match interrupted {
                    true => EndState::Interrupted,
                    false => EndState::Finished(summary.clone()),
                };
                self.trackers.finish(self.state.global_step, &end);
                Ok(Outcome {
                    interrupted,
                    last_checkpoint: self.last_checkpoint,
                    best_checkpoint: self.state.best_model_checkpoint,
                    summary,
                    before: self.before,
                    after: self.after,
                })
            }
            Err(error) => {
                let device = self.model.device();
                let error = out_of_memory::explain(error, device, &self.settings.config);
                let error = self.rescue(error);
                let end = EndState::Crashed(format!("{error:#}"));
                self.trackers.finish(self.state.global_step, &end);
                Err(error)
            }
        }
    }

    /// The recipe: epochs of steps, and after each step what is due. Returns whether a signal ended it.
    fn train(&mut self) -> Result<bool> {
        self.events.on_init_end(&self.state)?;
        self.before = self.answer_samples()?;
        self.events.on_train_begin(&self.state)?;
        let mut begun = false;
        let mut interrupted = false;
        while self.state.global_step < self.steps.total {
            let step = self.state.global_step;
            if !begun || self.steps.batches_of(step).start == 0 {
                self.events.on_epoch_begin(&self.state)?;
                begun = true;
            }
            let groups = self.examples.of_step(step, &self.steps, self.settings)?;
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
        if !interrupted {
            self.after = self.answer_samples()?;
        }
        Ok(interrupted)
    }

    /// One optimizer step over its micro-batches.
    fn step(&mut self, groups: &[Group]) -> Result<()> {
        let started = Instant::now();
        self.events.on_step_begin(&self.state)?;
        let batches: Vec<MicroBatch> = groups
            .iter()
            .map(|group| {
                let rows = group.rows.iter().map(|row| sequence(row));
                MicroBatch::new(rows, self.model.device())
            })
            .collect::<Result<_>>()?;
        let window: usize = batches.iter().map(MicroBatch::targets).sum();
        let (mut loss, mut aux, mut right, mut tokens) = (0.0, 0.0, 0, 0);
        for (index, batch) in batches.iter().enumerate() {
            let options = self.forward_options(index);
            let found = batch
                .train(self.model, &self.loss, window, &options)
                .with_context(|| {
                    let (tokens, examples) = (batch.tokens(), some(&groups[index].numbers));
                    format!("micro-batch {index} of {tokens} tokens ({examples})")
                })?;
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
        ensure!(
            grad_norm.is_finite(),
            "the gradient is not finite (its norm is {grad_norm}) although the loss is ({loss}): lower \
             learning_rate, or look at the gradient of {}",
            self.loss.label
        );
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
        self.screen.step(StepNumbers {
            step: self.state.global_step,
            epoch: self.state.epoch,
            loss,
            lr,
            rate: tokens as f64 / started.elapsed().as_secs_f64(),
        });
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
        let factor = self.schedule.component.factor(&progress);
        let factor = self.schedule.said("factor", factor)?;
        ensure!(
            factor.is_finite() && factor >= 0.0,
            "{} gave the factor {factor} after {} steps, expected a finite number of 0 or more",
            self.schedule.label,
            progress.step
        );
        Ok(self.settings.learning_rate * factor * self.lr_factor)
    }
}

/// `examples 3, 1, 4`, or the first eight and how many more.
fn some(examples: &[usize]) -> String {
    let shown: Vec<String> = examples.iter().take(8).map(usize::to_string).collect();
    let shown = shown.join(", ");
    match examples.len().saturating_sub(8) {
        0 => format!("examples {shown}"),
        more => format!("examples {shown} and {more} more"),
    }
}

/// Puts a checkpoint back into model and optimizer.
fn restore(
    dir: &Path,
    model: &GptOss,
    files: &dyn ModelFiles,
    optimizer: &mut OptimizerHost,
    examples: &mut Examples,
    settings: &Settings,
) -> Result<TrainerState> {
    Checkpoint::check(dir, files.weights_file())?;
    let saved = TrainerState::read(dir)?;
    anyhow::ensure!(
        saved.data_seed == settings.data_seed && saved.seed == settings.seed,
        "it was made with seed {} and data_seed {}, this run has {} and {}",
        saved.seed,
        saved.data_seed,
        settings.seed,
        settings.data_seed
    );
    examples.go_on(&saved)?;
    files.load(model, dir)?;
    let state = candle_core::safetensors::load(dir.join(OPTIMIZER_FILE), model.device())?;
    optimizer.restore(
        saved.global_step,
        state.into_iter().collect(),
        model.device(),
    )?;
    Ok(saved)
}
