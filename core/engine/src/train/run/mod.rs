//! `apus sft`: the page on which a run can be read from top to bottom.
//!
//! A run is set up, takes a snapshot of what the model answers, makes its steps and does after each what is due (log,
//! evaluate, answer, save), loads the best weights where that was asked for, takes the second snapshot and reports how it
//! ended. Each of these is a function here; what is done when it is due (`due`), how a run ends (`ending`) and the parts that they
//! work on have a file each beside this one.

mod answers;
mod checkpoints;
mod due;
mod ending;
mod evaluations;
mod learner;
mod outcome;
mod predictions;
mod progress;
mod reports;
mod requests;
mod set_aside;
mod set_up;

pub use learner::{forward_options, obey};

use super::events::Events;
use super::examples::{Example, Examples};
use super::optimizer::{Hook, OptimizerHost};
use super::parts::Components;
use super::ranks::{COMPARED_EVERY, LastWords, Ranks};
use super::settings::{Due, Every, Settings};
use crate::host::{RunView, Shown};
use crate::out_of_memory::Phase;
use answers::Answers;
use anyhow::{Context, Result};
use apus_base::lines::{info, warning};
use apus_base::signals;
use apus_components::config::{Resolved, SftConfig};
use apus_data::data::Stream;
use checkpoints::Checkpoints;
use evaluations::Evaluations;
use learner::Learner;
use outcome::{Outcome, Snapshot};
use progress::Progress;
use reports::Reports;
use set_up::{Begun, SetUp, Taken, set_up};
use std::cell::Cell;
use std::time::Instant;

/// How many rounds of prompts callbacks may ask for before the next step begins, since an answer may lead to a new prompt.
const ROUNDS: usize = 100;

/// Runs a fine-tuning; returns whether a signal ended it early.
///
/// # Errors
/// Anything that stops it; checkpoints that were written stay.
pub fn run(resolved: &Resolved<SftConfig>) -> Result<bool> {
    let others = LastWords::default();
    let result = set_up_and_train(resolved, &others);
    if let Err(error) = &result {
        others.say(error);
    }
    match result {
        Err(error) if signals::is_interrupted(&error) => {
            info!("stopped before the first step; there is nothing to save");
            Ok(true)
        }
        result => result,
    }
}

fn set_up_and_train(resolved: &Resolved<SftConfig>, others: &LastWords) -> Result<bool> {
    let (set_up, taken) = match set_up(resolved, others)? {
        Begun::Run(set_up, taken) => (*set_up, *taken),
        Begun::Followed | Begun::DryRun => return Ok(false),
    };
    let Taken {
        components,
        stream,
        mut folder,
        ranks,
    } = taken;
    let run =
        Run::start(&set_up, components, stream, ranks).map_err(|error| set_up.explain(error))?;
    // The folder is kept only from here on: a run that was refused leaves it as it was.
    folder.keep();
    set_up.write_files()?;
    run.learner.print_into(folder.path())?;
    let (dir, steps) = (folder.path(), run.progress.steps.total);
    info!("run: {}, {steps} steps", dir.display());
    let outcome = run.train()?;
    outcome.print(&set_up.config, dir);
    Ok(outcome.interrupted)
}

/// A run. What a callback asks for in any event is done by [`Run::follow_up`] in the same step.
struct Run<'a> {
    set_up: &'a SetUp,
    settings: &'a Settings,
    examples: Examples<'a>,
    learner: Learner<'a>,
    events: Events,
    progress: Progress,
    evaluations: Evaluations<'a>,
    answers: Answers<'a>,
    checkpoints: Checkpoints<'a>,
    reports: Reports,
    view: RunView,
}

impl<'a> Run<'a> {
    /// Puts the parts together, resumes from a checkpoint where one was given, and starts the trackers.
    fn start(
        set_up: &'a SetUp,
        components: Components,
        stream: Option<Stream>,
        ranks: Option<Ranks>,
    ) -> Result<Self> {
        let (settings, model) = (&set_up.settings, &set_up.model);
        let val = set_up.data.val.samples.as_slice();
        let mut examples = set_up.examples(stream, components.sampler)?;
        let mut steps = settings.steps(examples.of_epoch(settings)?)?;
        if examples.is_streamed() {
            steps = steps.of_a_stream();
        }
        settings.check_evaluations(&steps, val.is_empty())?;
        let params = model.params().iter();
        let names: Vec<&str> = params.map(|param| param.name()).collect();
        components.optimizer.check(&names)?;
        let mut optimizer = OptimizerHost::new(components.optimizer, model.params().to_vec());
        if let Some(ranks) = ranks.as_ref().filter(|_| set_up.divided) {
            ranks.divide(model, &mut optimizer)?;
        }
        let mut learner = Learner {
            model,
            loss: components.loss,
            optimizer,
            schedule: components.schedule,
            gradient_is_checked: false,
            ranks,
            ranks_differ: Cell::new(false),
            weights_are_trained: Cell::new(true),
            requested: Default::default(),
            counts_rows: examples.asks_for_losses(),
        };
        let mut events = Events::new(components.callbacks);
        let mut progress = Progress::new(steps.clone(), settings, &examples, model.device());
        progress.state.world_size = learner.ranks.as_ref().map_or(1, Ranks::size);
        let mut checkpoints = Checkpoints::new(settings, &set_up.trained, (&examples, &steps), val);
        progress.state.metric_for_best_model = checkpoints.metric();
        checkpoints.resume(&mut learner, &mut examples, &mut progress, &mut events)?;
        if let (Some(ranks), Some(path)) = (&learner.ranks, checkpoints.last()) {
            ranks.note_checkpoint(path);
        }
        let info = reports::info(settings, &progress, learner.ranks.as_ref());
        let view = RunView::new(
            info.clone(),
            Shown {
                params: model.params().to_vec(),
                own: set_up.divided.then(|| learner.optimizer.own_names()),
                tokenizer: Some(set_up.encoder.tokenizer().clone()),
            },
        );
        let mut evaluations = Evaluations::new(set_up, components.metrics);
        learner.begin(&view)?;
        events.begin(&view)?;
        evaluations.begin(&view)?;
        examples.begin(&view)?;
        view.take_changed();
        checkpoints.restore_trained(&learner)?;
        learner.share_state(progress.state.global_step)?;
        if !learner.requested.is_empty() {
            let requested = learner.requested.clone();
            learner.obey(requested)?;
        }
        if settings.resume.is_some() {
            learner.hook(Hook::AfterSaving)?;
        }
        let ranks = learner.ranks.as_ref();
        let reports = Reports::start(components.trackers, info, settings, model.device(), ranks);
        progress.start_clock();
        Ok(Self {
            set_up,
            settings,
            examples,
            learner,
            events,
            progress,
            evaluations,
            answers: Answers::new(&set_up.config, &set_up.encoder),
            checkpoints,
            reports,
            view,
        })
    }

    /// Trains until the last step, a signal or an error, and reports the end to the trackers.
    fn train(mut self) -> Result<Outcome> {
        let mut result = self.make_all_steps().map(Some);
        if result.as_ref().is_err_and(signals::is_interrupted) {
            result = self.save_after_signal().map(|()| None);
        }
        self.reports.close_screen();
        match result {
            Ok(snapshots) => {
                self.learner.end_ranks()?;
                Ok(self.finish(snapshots))
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// The recipe: steps, and after each what is due. A signal ends it at any point.
    fn make_all_steps(&mut self) -> Result<[Snapshot; 2]> {
        self.events.on_init_end(&self.progress.state)?;
        let before = self.snapshot()?;
        self.events.on_train_begin(&self.progress.state)?;
        self.progress.report_if_complete(self.events.stopped());
        let mut begun = false;
        while !self.is_over() {
            let step = self.progress.state.global_step;
            if !begun || self.progress.steps.batches_of(step).start == 0 {
                self.events.on_epoch_begin(&self.progress.state)?;
                begun = true;
            }
            self.do_requests(step)?;
            signals::check()?;
            let steps = &self.progress.steps;
            let groups = self.examples.of_step(step, steps, self.settings)?;
            self.step(&groups).with_context(|| Phase::Step(step + 1))?;
            if self.progress.steps.ends_epoch(step) {
                self.events.on_epoch_end(&self.progress.state)?;
            }
            self.follow_up()?;
        }
        let (model, state) = (self.learner.model, &self.progress.state);
        self.checkpoints.load_best(model, state)?;
        self.learner.share_weights()?;
        self.events.end_training(state)?;
        self.do_late_requests()?;
        Ok([before, self.snapshot()?])
    }

    /// Whether all steps are made, or a callback has ended the run.
    fn is_over(&self) -> bool {
        self.progress.is_complete() || self.events.stopped().is_some()
    }

    /// One optimizer step over its micro-batches.
    fn step(&mut self, groups: &[Vec<Example>]) -> Result<()> {
        let started = Instant::now();
        let (events, progress) = (&mut self.events, &mut self.progress);
        let step = progress.state.global_step + 1;
        self.learner.enter(|| format!("step {step}"), false);
        events.on_step_begin(&progress.state)?;
        self.do_requests(step)?;
        share_changes(&self.view, &self.learner)?;
        let (events, progress) = (&mut self.events, &mut self.progress);
        let steps_made = progress.state.global_step;
        let busy = self.view.busy();
        let window = self.learner.window(groups, self.settings, steps_made)?;
        let report = self
            .learner
            .step(&window, self.settings, progress, events)?;
        drop(busy);
        let hook = events.on_optimizer_step(&progress.state);
        self.learner.model.device().synchronize()?;

        // From here on the step is made: an error of a callback is returned only after it was counted.
        let samples = groups.iter().map(Vec::len).sum();
        self.examples.learnt(groups, &report.rows);
        progress.count(&report, (samples, started), self.examples.state());
        self.reports.step(progress.shown(&report, started));
        hook?;
        events.on_step_end(&progress.state)
    }

    /// Logs, evaluates, answers and saves, as intervals, callbacks and the end of the run ask for: each once for
    /// the weights of this step, whichever event asked for it.
    fn follow_up(&mut self) -> Result<()> {
        let (settings, step) = (self.settings, self.progress.state.global_step);
        self.learner
            .enter(|| format!("what is due after step {step}"), true);
        share_changes(&self.view, &self.learner)?;
        if step.is_multiple_of(COMPARED_EVERY) {
            self.learner.compare(step)?;
        }
        let mut due = settings.due_after(step, &self.progress.steps);
        let (mut done, mut rounds) = (Due::default(), 0);
        loop {
            self.do_requests(step)?;
            due |= self.take_requests();
            share_changes(&self.view, &self.learner)?;
            if self.is_over() {
                due |= settings.due_at_the_end();
            }
            if due.log && !done.log {
                done.log = true;
                self.log()?;
            } else if due.evaluate && !done.evaluate && !self.evaluations.is_empty() {
                done.evaluate = true;
                let better = self.evaluate()?;
                due.save |= better && settings.save == Every::Better;
                if !self.is_over() {
                    self.answer_samples()?;
                }
            } else if self.events.has_prompts() && rounds < ROUNDS {
                rounds += 1;
                self.answer_callbacks()?;
            } else if self.checkpoints.waits_for_a_number(step) {
                let better = self.compare_reported_metric()?;
                due.save |= better && settings.save == Every::Better;
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
            self.progress.report_who_stopped(self.events.stopped());
            self.complete_checkpoint()?;
        }
        Ok(())
    }
}

/// Gives the other ranks the weights that components have set.
fn share_changes(view: &RunView, learner: &Learner) -> Result<()> {
    match view.take_changed() {
        true => learner.share_weights(),
        false => Ok(()),
    }
}
