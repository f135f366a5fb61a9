//! What a run trains, and with what: the model, its loss, its optimizer and the schedule of the learning rate.

use super::progress::Progress;
use crate::train::batch::MicroBatch;
use crate::train::channel_loss::of_samples;
use crate::train::events::Events;
use crate::train::examples::Group;
use crate::train::gradient_check;
use crate::train::optimizer::OptimizerHost;
use crate::train::settings::Settings;
use crate::train::step::{Step, StepHooks, StepReport};
use anyhow::{Result, ensure};
use apus_components::registry::Named;
use apus_model::model::CausalLm;
use apus_model::nn::{ForwardOptions, Neftune};
use apus_model::ops::reduce;
use apus_sdk::{Loss, LrSchedule};

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
}

impl Learner<'_> {
    /// The micro-batches of a step, on the device.
    ///
    /// # Errors
    /// Rows that are no examples, or out of memory.
    pub fn batches(&self, groups: &[Group], settings: &Settings) -> Result<Vec<MicroBatch>> {
        let batch = |group: &Group| {
            let rows = group.rows.iter().map(|row| row.sequence());
            let batch = MicroBatch::new(rows, self.model.device())?;
            let batch = batch.of_examples(&group.numbers);
            Ok(match settings.enable_channel_loss {
                true => batch.of_channels(of_samples(group.rows.iter().map(AsRef::as_ref))),
                false => batch,
            })
        };
        groups.iter().map(batch).collect()
    }

    /// Makes the step after those of `progress`; callbacks and the schedule are asked on the way.
    ///
    /// # Errors
    /// Whatever ends a step; until the update the weights are those of the step before.
    pub fn step(
        &mut self,
        batches: &[MicroBatch],
        settings: &Settings,
        progress: &Progress,
        events: &mut Events,
    ) -> Result<StepReport> {
        let step = Step {
            model: self.model,
            loss: &self.loss,
            max_grad_norm: settings.max_grad_norm,
        };
        let mut hooks = RunHooks {
            events,
            progress,
            schedule: &self.schedule,
            learning_rate: settings.learning_rate,
            check_gradient: !std::mem::replace(&mut self.gradient_is_checked, true),
        };
        let steps_made = progress.state.global_step;
        let options = |micro_batch: usize| {
            let place = steps_made.wrapping_mul(1 << 20) + micro_batch as u64;
            let seed = settings.seed.rotate_left(40) ^ place;
            ForwardOptions {
                training: true,
                kept_layers: settings.kept_layers,
                dropout_seed: Some(seed),
                aux_coef: settings.router_aux_loss_coef,
                neftune: (settings.neftune_noise_alpha).map(|alpha| Neftune { alpha, seed }),
            }
        };
        step.make(&mut self.optimizer, batches, options, &mut hooks)
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

/// The callbacks and the schedule of a run, as they take part in a step.
struct RunHooks<'a> {
    events: &'a mut Events,
    progress: &'a Progress,
    schedule: &'a Named<dyn LrSchedule>,
    learning_rate: f64,
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
        Ok(self.learning_rate * factor * self.events.lr_factor())
    }
}
