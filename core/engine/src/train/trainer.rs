//! The training loop.

mod checkpoints;
mod ending;
mod look;
mod report;
mod step;

pub use checkpoints::how_to_go_on;
pub use look::Look;

use super::about;
use super::best::Best;
use super::checkpoint::Rotation;
use super::clock::Clock;
use super::due::Due;
use super::events::Events;
use super::examples::Examples;
use super::logs::Trackers;
use super::optimizer::OptimizerHost;
use super::pictures::Pictures;
use super::resume::Parts;
use super::screen::Screen;
use super::settings::{Every, Settings};
use super::state::{Pending, StreamState, TrainerState};
use super::steps::{Steps, Wanted};
use super::terms::Terms;
use crate::out_of_memory;
use anyhow::{Context, Result, ensure};
use apus_base::say::{info, warning};
use apus_base::signals;
use apus_components::registry::Named;
use apus_data::chat::Encoded;
use apus_model::model::GptOss;
use apus_sdk::{
    Callback, Decoder, EndState, Loss, LrSchedule, Metric, Optimizer, RunInfo, RunState, Tracker,
};
use checkpoints::Saved;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// How often callbacks may ask for answers to answers before the next step has its turn.
const ROUNDS: usize = 100;

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
    /// The best evaluation, where its weights are in no checkpoint: the metric and its value.
    pub unsaved_best: Option<(String, f64)>,
    /// The checkpoint to try: the last that was saved, or the best where that was loaded.
    pub weights: Option<PathBuf>,
    /// The last line of the log.
    pub summary: Map<String, Value>,
    /// The model before the first step.
    pub before: Look,
    /// The model after the last step; empty where a signal ended the run.
    pub after: Look,
}

/// A run.
pub struct Trainer<'a> {
    model: &'a GptOss,
    files: &'a dyn ModelFiles,
    settings: &'a Settings,
    examples: Examples<'a>,
    val: &'a [Encoded],
    loss: Named<dyn Loss>,
    schedule: Named<dyn LrSchedule>,
    metrics: Vec<Named<dyn Metric>>,
    optimizer: OptimizerHost,
    events: Events,
    trackers: Trackers,
    steps: Steps,
    state: RunState,
    pending: Pending,
    /// Where in the data the last whole step has ended.
    position: (usize, Option<StreamState>),
    clock: Clock,
    screen: Screen,
    best: Best,
    /// The last evaluation, and after how many steps it was made.
    evaluation: Option<(u64, Map<String, Value>)>,
    last_checkpoint: Option<PathBuf>,
    saved: Option<Saved>,
    rotation: Rotation,
    /// What a run that goes on from a checkpoint of this one has to have in common with it.
    terms: Terms,
    /// What the best metric is one of.
    measured: Value,
    saving: bool,
    /// The best checkpoint and its step, once it was loaded.
    loaded: Option<(u64, PathBuf)>,
    /// Whether the first step has looked for adapters without a gradient.
    gradient_checked: bool,
    /// Whether callbacks know that training is over.
    ended: bool,
    run_id: String,
    before: Look,
    after: Look,
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
        (mut examples, val): (Examples<'a>, &'a [Encoded]),
        components: Components,
    ) -> Result<Self> {
        let steps = Steps::new(&Wanted {
            examples: examples.of_epoch(settings)?,
            batch_size: settings.per_device_train_batch_size,
            accumulation: settings.gradient_accumulation_steps,
            epochs: settings.num_train_epochs,
            max_steps: settings.max_steps,
            drop_last: settings.drop_last,
            warmup: settings.warmup,
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
        ensure!(
            !val.is_empty() || !(settings.load_best_model_at_end || settings.save == Every::Better),
            "load_best_model_at_end and save_strategy best need evaluations, and there is nothing to evaluate on: give \
             --val_dataset or --split_dataset_ratio"
        );
        settings.say_if_few_are_evaluated(&steps);
        let mut best = Best::by(&settings.metric_for_best_model, settings.greater_is_better);
        state.metric_for_best_model = best.key();
        let mut events = Events::new(components.callbacks);
        let mut saved_at = None;
        let mut run_id = about::new_id();
        let mut terms = settings.terms.clone();
        terms.put("data", examples.content());
        // The whole of a streamed run is one epoch, as long as the run.
        if terms.get("streaming") == Some(&Value::Bool(false)) {
            terms.put("examples_per_epoch", steps.examples_per_epoch);
        }
        terms.put("max_steps", steps.total);
        terms.put("warmup_steps", steps.warmup);
        let measured = settings.measured(val);
        let (mut rotation, mut last_checkpoint) = (Rotation::default(), None);
        let schedule = components.schedule;
        if let Some(resume) = &settings.resume {
            let same_rate = |saved: &TrainerState| {
                saved.rates_are_those_of(&steps, settings.learning_rate, &*schedule.component)
            };
            let parts = Parts {
                model,
                files,
                optimizer: &mut optimizer,
                examples: &mut examples,
                args: &settings.config,
            };
            let saved = resume
                .restore(&terms, &same_rate, parts)
                .with_context(|| format!("{}: cannot be resumed", resume.dir.display()))?;
            if let Some(saved) = saved {
                saved.restore(&mut state, &measured);
                best.resume(&saved, &mut state);
                if let Some(by) = &saved.stopped {
                    info!(
                        "resume: {by}, has ended the run that is continued, after step {} of {}; it goes on from there",
                        saved.global_step, saved.max_steps
                    );
                }
                saved_at = Some(Saved::by(&saved));
                events.load_state(saved.stateful_callbacks)?;
                events.resume_lr_factor(saved.lr_factor);
                if !saved.run_id.is_empty() {
                    run_id = saved.run_id;
                }
                pending = saved.pending;
                rotation = Rotation::resumed(&settings.run_dir, &run_id, saved.global_step);
                last_checkpoint = Some(resume.dir.clone());
            }
        }
        let position = examples.state();
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
        trackers.watch_machine(apus_model::device::bus_address(model.device()));
        Ok(Self {
            model,
            files,
            settings,
            examples,
            val,
            loss: components.loss,
            schedule,
            metrics: components.metrics,
            optimizer,
            events,
            trackers,
            clock: Clock::start(state.global_step),
            steps,
            state,
            pending,
            position,
            screen,
            best,
            evaluation: None,
            last_checkpoint,
            saved: saved_at,
            rotation,
            terms,
            measured,
            saving: false,
            loaded: None,
            gradient_checked: false,
            ended: false,
            run_id,
            before: Look::default(),
            after: Look::default(),
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
        let mut result = self.train();
        let interrupted = result.as_ref().is_err_and(signals::is_interrupted);
        if interrupted {
            result = self.leave();
        }
        self.screen.close();
        match result {
            Ok(()) => {
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
                Ok(self.outcome(interrupted, summary))
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

    /// The recipe: epochs of steps, and after each step what is due. A signal ends it wherever it is.
    fn train(&mut self) -> Result<()> {
        self.events.on_init_end(&self.state)?;
        self.before = self.look()?;
        self.events.on_train_begin(&self.state)?;
        self.say_if_nothing_is_left();
        let mut begun = false;
        while !self.is_over() {
            let step = self.state.global_step;
            if !begun || self.steps.batches_of(step).start == 0 {
                self.events.on_epoch_begin(&self.state)?;
                begun = true;
            }
            let groups = self.examples.of_step(step, &self.steps, self.settings)?;
            self.step(&groups)
                .with_context(|| format!("step {}", step + 1))?;
            if self.steps.ends_epoch(step) {
                self.events.on_epoch_end(&self.state)?;
            }
            self.what_is_due()?;
        }
        self.load_best()?;
        self.end()?;
        self.do_late_requests()?;
        self.after = self.look()?;
        Ok(())
    }

    /// Whether all steps are made, or a callback has ended the run.
    fn is_over(&self) -> bool {
        self.state.global_step >= self.steps.total || self.events.stopped().is_some()
    }

    /// Logs, evaluates, answers and saves, as intervals, callbacks and the end of the run ask for: each once for
    /// the weights of this step, whichever event asked for it.
    fn what_is_due(&mut self) -> Result<()> {
        let (s, step) = (self.settings, self.state.global_step);
        let mut due = Due::by_interval(s, step, &self.steps);
        let (mut done, mut rounds) = (Due::default(), 0);
        loop {
            due |= self.take_requests();
            if self.is_over() {
                due |= Due::at_the_end(s);
            }
            if due.log && !done.log {
                done.log = true;
                self.log()?;
            } else if due.evaluate && !done.evaluate && !self.val.is_empty() {
                done.evaluate = true;
                let better = self.evaluate()?;
                due.save |= better && s.save == Every::Better;
                if !self.is_over() {
                    self.answer_samples()?;
                }
            } else if self.events.has_prompts() && rounds < ROUNDS {
                rounds += 1;
                self.answer_callbacks()?;
            } else if self.best.waits(step) {
                let better = self.judge()?;
                due.save |= better && s.save == Every::Better;
            } else if due.save && !done.save {
                done.save = true;
                self.save()?;
            } else {
                break;
            }
        }
        if self.events.has_prompts() {
            warning!("callbacks ask for more and more answers; the rest waits for the next step");
        }
        if self.is_over() {
            self.say_who_stopped();
            self.complete_checkpoint()?;
        }
        Ok(())
    }

    /// What callbacks asked for since the last time.
    fn take_requests(&mut self) -> Due {
        static SAID: Once = Once::new();
        let asked = self.events.take_requests();
        if asked.evaluate && self.val.is_empty() {
            SAID.call_once(|| {
                warning!("a callback asks for an evaluation, and there is nothing to evaluate on");
            });
        }
        asked
    }
}
