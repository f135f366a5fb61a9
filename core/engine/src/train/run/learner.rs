//! What a run trains, and with what: the model, its loss, its optimizer and the schedule of the learning rate.

use super::progress::Progress;
use crate::train::batch::MicroBatch;
use crate::train::channel_loss::of_samples;
use crate::train::events::Events;
use crate::train::examples::Group;
use crate::train::gradient_check;
use crate::train::optimizer::OptimizerHost;
use crate::train::ranks::{BatchData, Ranks, StepTask, Task, share};
use crate::train::settings::Settings;
use crate::train::step::{Step, StepHooks, StepReport, Window};
use anyhow::{Result, ensure};
use apus_components::registry::Named;
use apus_model::model::CausalLm;
use apus_model::nn::{ForwardOptions, Neftune};
use apus_model::ops::reduce;
use apus_sdk::{Loss, LrSchedule};
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
}

impl Learner<'_> {
    /// The micro-batches of the step after `steps_made`, on the device: all of them, or this rank's share, after the others
    /// were given theirs.
    ///
    /// # Errors
    /// Rows that are no examples, out of memory, or a rank that is gone.
    pub fn window(&self, groups: &[Group], settings: &Settings, steps_made: u64) -> Result<Window> {
        let batch = |number: usize| -> Result<(usize, MicroBatch)> {
            let group = &groups[number];
            let rows = group.rows.iter().map(|row| row.sequence());
            let batch = MicroBatch::new(rows, self.model.device())?;
            let batch = batch.of_examples(&group.numbers);
            let batch = match settings.enable_channel_loss {
                true => batch.of_channels(of_samples(group.rows.iter().map(AsRef::as_ref))),
                false => batch,
            };
            Ok((number, batch))
        };
        let Some(ranks) = &self.ranks else {
            let batches = (0..groups.len()).map(batch).collect::<Result<Vec<_>>>()?;
            return Ok(Window::whole(
                batches.into_iter().map(|(_, batch)| batch).collect(),
            ));
        };
        let tokens: Vec<usize> = groups.iter().map(Group::tokens).collect();
        let supervised = groups.iter().map(Group::supervised).sum();
        let shares = share(&tokens, ranks.size());
        let passes = shares.iter().map(Vec::len).max().unwrap_or(0);
        let mut shares = shares.into_iter();
        let own = shares.next().unwrap_or_default();
        let task = |numbers: Vec<usize>| {
            let data = |number: usize| {
                let group = &groups[number];
                let rows = group.rows.iter().map(AsRef::as_ref);
                let mut data = BatchData::new(rows.clone());
                data.examples.clone_from(&group.numbers);
                if settings.enable_channel_loss {
                    data.channels = of_samples(rows);
                }
                (number, data)
            };
            Task::Step(StepTask {
                step: steps_made,
                supervised,
                batches: numbers.into_iter().map(data).collect(),
                passes,
            })
        };
        ranks.give(&shares.map(task).collect::<Vec<_>>())?;
        Ok(Window {
            batches: own.into_iter().map(batch).collect::<Result<_>>()?,
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
        step.make(&mut self.optimizer, window, options, &mut hooks)
    }

    /// Says what this rank does from now on, to those that wait for it; what is `unhurried` may take as long as it needs.
    pub fn enter(&self, name: impl FnOnce() -> String, unhurried: bool) {
        if let Some(ranks) = &self.ranks {
            ranks.enter(&name(), unhurried);
        }
    }

    /// Lets the other ranks print into the folder of the run.
    ///
    /// # Errors
    /// A rank is gone.
    pub fn print_into(&self, run: &Path) -> Result<()> {
        match (&self.ranks, std::path::absolute(run)?.to_str()) {
            (Some(ranks), Some(run)) => ranks.tell(&Task::PrintInto(run.to_owned())),
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
        ranks.share_weights(self.model.params())
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
        let values: Vec<_> = self.optimizer.params().map(|param| param.value()).collect();
        ensure!(reduce::square_sum(&values)?.is_finite(), "it is not finite");
        Ok(())
    }
}

/// What the forward passes of the step after `steps_made` do, by the number of a micro-batch in the step: its random numbers
/// follow from these two, whichever rank computes it.
pub fn forward_options(
    settings: &Settings,
    steps_made: u64,
) -> impl Fn(usize) -> ForwardOptions + use<> {
    let (seed, kept_layers) = (settings.seed, settings.kept_layers);
    let (aux_coef, alpha) = (settings.router_aux_loss_coef, settings.neftune_noise_alpha);
    move |micro_batch| {
        let place = steps_made.wrapping_mul(1 << 20) + micro_batch as u64;
        let seed = seed.rotate_left(40) ^ place;
        ForwardOptions {
            training: true,
            kept_layers,
            dropout_seed: Some(seed),
            aux_coef,
            neftune: alpha.map(|alpha| Neftune { alpha, seed }),
        }
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
            gradient_check::check(optimizer.params())?;
        }
        self.events.on_pre_optimizer_step(&self.progress.state)?;
        let place = apus_sdk::Progress {
            step: self.progress.state.global_step,
            total: self.progress.steps.total,
            warmup: self.progress.steps.warmup,
            learning_rate: self.learning_rate,
        };
        let factor = self.schedule.component.factor(&place);
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
