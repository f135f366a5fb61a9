//! The optimizer step of a run: what callbacks are asked on the way, and what is counted after it.

use super::super::batch::MicroBatch;
use super::super::events::Events;
use super::super::examples::Group;
use super::super::gradient_check;
use super::super::optimizer::OptimizerHost;
use super::super::screen::StepNumbers;
use super::super::step::{Between, Step};
use super::super::steps::Steps;
use super::Trainer;
use anyhow::{Result, ensure};
use apus_components::registry::Named;
use apus_model::model::{ForwardOptions, Neftune};
use apus_sdk::{LrSchedule, Progress, RunState};
use std::time::Instant;

impl Trainer<'_> {
    /// One optimizer step over its micro-batches.
    pub(super) fn step(&mut self, groups: &[Group]) -> Result<()> {
        let started = Instant::now();
        self.events.on_step_begin(&self.state)?;
        let batches: Vec<MicroBatch> = groups
            .iter()
            .map(|group| {
                let rows = group.rows.iter().map(|row| row.sequence());
                let batch = MicroBatch::new(rows, self.model.device())?;
                Ok(batch.of_examples(&group.numbers))
            })
            .collect::<Result<_>>()?;
        let samples = groups.iter().map(|group| group.numbers.len()).sum();
        let step = Step {
            model: self.model,
            loss: &self.loss,
            max_grad_norm: self.settings.max_grad_norm,
        };
        let (settings, steps_made) = (self.settings, self.state.global_step);
        let mut between = Asked {
            events: &mut self.events,
            state: &self.state,
            schedule: &self.schedule,
            steps: &self.steps,
            learning_rate: settings.learning_rate,
            check_gradient: !std::mem::replace(&mut self.gradient_checked, true),
        };
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
        let report = step.make(&mut self.optimizer, &batches, options, &mut between)?;
        let heard = self.events.on_optimizer_step(&self.state);
        self.model.device().synchronize()?;

        // From here on the step is made, whatever callbacks say to it.
        self.clock
            .count(started.elapsed(), samples, report.tokens, report.loss);
        self.position = self.examples.state();
        self.state.global_step += 1;
        self.state.epoch = self.steps.epochs_after(self.state.global_step);
        self.state.learning_rate = report.learning_rate;
        self.state.loss = Some(report.loss);
        self.state.grad_norm = Some(report.grad_norm);
        self.pending.steps += 1;
        self.pending.loss += report.loss;
        self.pending.aux_loss += report.aux_loss;
        self.pending.right += report.right;
        self.pending.tokens += report.supervised as u64;
        self.screen.step(StepNumbers {
            step: self.state.global_step,
            epoch: self.state.epoch,
            loss: report.loss,
            lr: report.learning_rate,
            rate: report.tokens as f64 / started.elapsed().as_secs_f64(),
        });
        heard?;
        self.events.on_step_end(&self.state)
    }
}

/// The callbacks and the schedule, asked while a step goes on.
struct Asked<'a> {
    events: &'a mut Events,
    state: &'a RunState,
    schedule: &'a Named<dyn LrSchedule>,
    steps: &'a Steps,
    learning_rate: f64,
    /// The first step of this process looks whether a gradient reaches every adapter.
    check_gradient: bool,
}

impl Between for Asked<'_> {
    fn micro_batches(&mut self) -> Result<()> {
        self.events.on_substep_end(self.state)
    }

    fn gradient_and_update(&mut self, optimizer: &OptimizerHost) -> Result<f64> {
        if self.check_gradient {
            gradient_check::check(optimizer.params())?;
        }
        self.events.on_pre_optimizer_step(self.state)?;
        let progress = Progress {
            step: self.state.global_step,
            total: self.steps.total,
            warmup: self.steps.warmup,
            learning_rate: self.learning_rate,
        };
        let factor = self.schedule.component.factor(&progress);
        let factor = self.schedule.said("factor", factor)?;
        ensure!(
            factor.is_finite() && factor >= 0.0,
            "{} gave the factor {factor} after {} steps, expected a finite number of 0 or more",
            self.schedule.label,
            progress.step
        );
        Ok(self.learning_rate * factor * self.events.lr_factor())
    }
}
