//! What a run trains, and with what: the model, its loss, its optimizer and the schedule of the learning rate.

use super::progress::Progress;
use crate::host::RunView;
use crate::train::batch::batch_row;
use crate::train::channel_loss::of_samples;
use crate::train::events::Events;
use crate::train::examples::Example;
use crate::train::gradient_check;
use crate::train::optimizer::{Hook, OptimizerHost};
use crate::train::ranks::{BatchData, Limit, Ranks, Share, StepTask, Task, is_agreed, share};
use crate::train::requested::Requested;
use crate::train::settings::Settings;
use crate::train::step::{Step, StepHooks, StepReport, Window};
use anyhow::{Result, ensure};
use apus_components::registry::Named;
use apus_model::model::CausalLm;
use apus_model::nn::{ForwardOptions, Neftune};
use apus_model::ops::reduce;
use apus_sdk::{Loss, LrSchedule, Need};
use candle_core::Tensor;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

/// A model in training.
pub struct Learner<'a> {
    /// The model.
    pub model: &'a CausalLm,
    /// The loss.
    pub loss: Named<dyn Loss>,
    /// The optimizer.
    pub optimizer: OptimizerHost,
    /// The schedule of the learning rate.
    pub schedule: Named<dyn LrSchedule>,
    /// Whether the first step of this process has checked that a gradient reaches every adapter.
    pub gradient_is_checked: bool,
    /// The other ranks, which make every step along with this one.
    pub ranks: Option<Ranks>,
    /// Whether the ranks were found to have different weights.
    pub ranks_differ: Cell<bool>,
    /// Whether the model has the weights that are trained, and not others that callbacks have put in their place.
    pub weights_are_trained: Cell<bool>,
    /// What callbacks have asked of the parameters.
    pub requested: Requested,
    /// Whether the losses of examples are collected.
    pub counts_rows: bool,
}

impl Learner<'_> {
    /// Gives the run to loss, optimizer and schedule.
    ///
    /// # Errors
    /// One of them failed; the error names it.
    pub fn begin(&mut self, view: &RunView) -> Result<()> {
        view.begin(&mut self.loss, |loss, run| loss.begin(run))?;
        self.optimizer.begin(view)?;
        view.begin(&mut self.schedule, |schedule, run| schedule.begin(run))
    }

    /// The micro-batches of the step after `steps_made`, on the device: all of them, or this rank's share, after the others
    /// were given theirs.
    ///
    /// # Errors
    /// Rows that are no examples, out of memory, or a rank that is gone.
    pub fn window(
        &self,
        groups: &[Vec<Example>],
        settings: &Settings,
        steps_made: u64,
    ) -> Result<Window> {
        let examples: Vec<&Example> = groups.iter().flatten().collect();
        let supervised = examples.iter().map(|example| example.supervised()).sum();
        let data = |places: &Vec<usize>| {
            let own = || places.iter().map(|&at| (at, examples[at]));
            let mut data = BatchData::of_examples(own());
            if settings.enable_channel_loss {
                let rows = own().flat_map(|(_, example)| &example.rows);
                data.channels = of_samples(rows.map(AsRef::as_ref));
            }
            data.counts_rows = self.counts_rows;
            if self.loss.declares(Need::ChunkRows) {
                let rows = own().flat_map(|(_, example)| {
                    let number = Some(example.number as u64);
                    let rows = example.rows.iter();
                    rows.map(move |row| batch_row(number, row))
                });
                data.origin = (Some(steps_made + 1), rows.collect());
            }
            data
        };
        let tokens = groups
            .iter()
            .map(|group| group.iter().map(Example::tokens).collect());
        let tokens: Vec<Vec<usize>> = tokens.collect();
        // A mean over a micro-batch is not a sum over its examples.
        let limit = Limit {
            examples: settings.per_device_train_batch_size,
            tokens: settings.planned_tokens,
        };
        let limit = (settings.router_aux_loss_coef == 0.0).then_some(limit);
        let shares = match &self.ranks {
            None => share(&tokens, 1, None),
            Some(ranks) => share(&tokens, ranks.size(), limit),
        };
        let passes = shares.iter().map(Vec::len).max().unwrap_or(0);
        let mut shares = shares.into_iter();
        let own = shares.next().unwrap_or_default();
        if let Some(ranks) = &self.ranks {
            let task = |batches: Share| {
                Task::Step(StepTask {
                    step: steps_made,
                    supervised,
                    batches: batches.iter().map(data).collect(),
                    passes,
                })
            };
            ranks.give(&shares.map(task).collect::<Vec<_>>())?;
        }
        let device = self.model.device();
        let batches = own.iter().map(|places| data(places).batch(device));
        Ok(Window {
            batches: batches.collect::<Result<_>>()?,
            supervised,
            passes,
        })
    }

    /// Makes the step after those of `progress`; callbacks and the schedule are asked on the way.
    ///
    /// # Errors
    /// Whatever ends a step; until the update the weights are those of the step before.
    pub fn step(
        &mut self,
        window: &Window,
        settings: &Settings,
        progress: &Progress,
        events: &mut Events,
    ) -> Result<StepReport> {
        let step = Step {
            model: self.model,
            loss: &self.loss,
            max_grad_norm: settings.max_grad_norm,
            ranks: self.ranks.as_ref(),
        };
        let mut hooks = RunHooks {
            events,
            progress,
            schedule: &self.schedule,
            learning_rate: settings.learning_rate,
            ranks: self.ranks.as_ref(),
            check_gradient: !std::mem::replace(&mut self.gradient_is_checked, true),
        };
        let options = forward_options(settings, progress.state.global_step);
        let report = step.make(&mut self.optimizer, window, &options, &mut hooks);
        if let Some(ranks) = &self.ranks
            && report.as_ref().err().is_none_or(is_agreed)
        {
            ranks.rests();
        }
        report
    }

    /// Compares the weights of all ranks after `step` steps.
    ///
    /// # Errors
    /// They differ, or a rank is gone.
    pub fn compare(&self, step: u64) -> Result<()> {
        let Some(ranks) = &self.ranks else {
            return Ok(());
        };
        let compared = ranks.compare(self.model.params(), step, self.optimizer.label());
        if compared.as_ref().is_err_and(is_agreed) {
            self.ranks_differ.set(true);
        }
        compared
    }

    /// The optimizer's state of all parameters, wherever it is.
    ///
    /// # Errors
    /// It cannot be saved, or a rank is gone.
    pub fn optimizer_state(&self) -> Result<BTreeMap<String, Tensor>> {
        match &self.ranks {
            Some(ranks) => ranks.collect_state(&self.optimizer),
            None => self.optimizer.state(),
        }
    }

    /// Tells the optimizer, on all ranks, what is about to happen to the weights or has happened.
    ///
    /// # Errors
    /// It failed, or a rank is gone.
    pub fn hook(&mut self, hook: Hook) -> Result<()> {
        if !self.optimizer.has_hooks() {
            return Ok(());
        }
        let Some(ranks) = &self.ranks else {
            return self.optimizer.hook(hook, |here| here);
        };
        ranks.tell(&Task::Hook(hook))?;
        let told = ranks.hook(&mut self.optimizer, hook);
        ranks.rests();
        told
    }

    /// Does `work` with the weights that the optimizer gives it, between two hooks. The weights that are trained come back
    /// also where it fails.
    ///
    /// # Errors
    /// Those of `work`, or of a hook.
    pub fn between<T>(
        &mut self,
        [before, after]: [Hook; 2],
        work: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        self.hook(before)?;
        let done = work(self);
        let back = self.hook(after);
        let done = done?;
        back.map(|()| done)
    }

    /// Says what this rank does from now on, to those that wait for it; what is `unhurried` may take as long as it needs.
    pub fn enter(&self, name: impl FnOnce() -> String, unhurried: bool) {
        if let Some(ranks) = &self.ranks {
            ranks.enter(&name(), unhurried);
        }
    }

    /// Does what callbacks have asked of the parameters, on all ranks.
    ///
    /// # Errors
    /// A rank is gone.
    pub fn obey(&mut self, requested: Requested) -> Result<()> {
        obey(self.model, &mut self.optimizer, &requested);
        if let Some(ranks) = &self.ranks {
            ranks.tell(&Task::Obey(requested.clone()))?;
            ranks.rests();
        }
        self.requested = requested;
        Ok(())
    }

    /// Lets the other ranks print into the folder of the run.
    ///
    /// # Errors
    /// A rank is gone.
    pub fn print_into(&self, run: &Path) -> Result<()> {
        match (&self.ranks, std::path::absolute(run)?.to_str()) {
            (Some(ranks), Some(run)) => {
                ranks.tell(&Task::PrintInto(run.to_owned()))?;
                ranks.rests();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Gives the other ranks the weights and the optimizer's state after `step` steps.
    ///
    /// # Errors
    /// A rank is gone.
    pub fn share_state(&mut self, step: u64) -> Result<()> {
        let Some(ranks) = &self.ranks else {
            return Ok(());
        };
        ranks.share_weights(self.model.params())?;
        ranks.share_state(&mut self.optimizer, self.model.device(), step)
    }

    /// Gives the other ranks the weights that were loaded.
    ///
    /// # Errors
    /// A rank is gone.
    pub fn share_weights(&self) -> Result<()> {
        let Some(ranks) = &self.ranks else {
            return Ok(());
        };
        ranks.tell(&Task::TakeWeights)?;
        ranks.share_weights(self.model.params())?;
        ranks.rests();
        Ok(())
    }

    /// Lets the other ranks end: the run is over.
    ///
    /// # Errors
    /// A rank is gone.
    pub fn end_ranks(&mut self) -> Result<()> {
        let Some(ranks) = self.ranks.take() else {
            return Ok(());
        };
        ranks.tell(&Task::End)?;
        ranks.finish()
    }

    /// Whether what was trained so far is worth saving after an error.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check_sound(&self) -> Result<()> {
        ensure!(
            !self.optimizer.is_torn(),
            "the optimizer was in the middle of the next step"
        );
        ensure!(!self.ranks_differ.get(), "the ranks have different weights");
        ensure!(
            self.weights_are_trained.get(),
            "the trained weights could not be put back after an evaluation or a checkpoint of others"
        );
        if let Some(ranks) = &self.ranks {
            ranks.check_rest()?;
        }
        let values: Vec<_> = self.optimizer.params().map(|param| param.value()).collect();
        ensure!(reduce::square_sum(&values)?.is_finite(), "it is not finite");
        Ok(())
    }
}

/// Does on one rank what callbacks have asked of the parameters.
pub fn obey(model: &CausalLm, optimizer: &mut OptimizerHost, requested: &Requested) {
    model.freeze(&|name| requested.frozen.contains(name));
    optimizer.obey(requested);
}

/// What the forward passes of the step after `steps_made` do. Random numbers follow from the step and from the place of an
/// example in it, whichever rank computes it and in whichever micro-batch.
pub fn forward_options(settings: &Settings, steps_made: u64) -> ForwardOptions {
    let seed = settings.seed.rotate_left(40) ^ steps_made;
    let neftune = settings.neftune_noise_alpha;
    ForwardOptions {
        training: true,
        kept_layers: settings.kept_layers,
        dropout_seed: Some(seed),
        aux_coef: settings.router_aux_loss_coef,
        neftune: neftune.map(|alpha| Neftune { alpha, seed }),
    }
}

/// The callbacks and the schedule of a run, as they take part in a step.
struct RunHooks<'a> {
    events: &'a mut Events,
    progress: &'a Progress,
    schedule: &'a Named<dyn LrSchedule>,
    learning_rate: f64,
    ranks: Option<&'a Ranks>,
    check_gradient: bool,
}

impl StepHooks for RunHooks<'_> {
    fn micro_batches(&mut self) -> Result<()> {
        self.events.on_substep_end(&self.progress.state)
    }

    fn gradient_and_update(&mut self, optimizer: &OptimizerHost) -> Result<f64> {
        if self.check_gradient {
            gradient_check::check(optimizer.params(), optimizer.own())?;
        }
        self.events.on_pre_optimizer_step(&self.progress.state)?;
        let (step, total) = self
            .progress
            .steps
            .scheduled(self.progress.state.global_step);
        let place = apus_sdk::Progress {
            step,
            total,
            warmup: self.progress.steps.warmup,
            learning_rate: self.learning_rate,
        };
        let inside = apus_base::doing::enter(&self.schedule.label, "factor");
        let factor = self.schedule.component.factor(&place);
        drop(inside);
        let factor = self.schedule.context("factor", factor)?;
        ensure!(
            factor.is_finite() && factor >= 0.0,
            "{} gave the factor {factor} after {} steps, expected a finite number of 0 or more",
            self.schedule.label,
            place.step
        );
        let learning_rate = self.learning_rate * factor * self.events.lr_factor();
        match self.ranks {
            Some(ranks) => ranks.broadcast(learning_rate),
            None => Ok(learning_rate),
        }
    }
}
