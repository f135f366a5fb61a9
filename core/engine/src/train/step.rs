//! One optimizer step: micro-batches, loss, backward passes, clipping, update.
//!
//! Whatever trains takes it: a run, a benchmark, and the tests that follow the curves of transformers.

use super::batch::MicroBatch;
use super::channel_loss::ChannelLosses;
use super::optimizer::{OptimizerHost, Passes};
use super::ranks::{Found, Load, Loads, Ranks, Reduction};
use super::row_loss::RowSums;
use anyhow::{Context, Result, ensure};
use apus_base::signals;
use apus_components::registry::Named;
use apus_model::model::CausalLm;
use apus_model::nn::{ForwardOptions, OnReady, Ready};
use apus_sdk::Loss;

/// What a caller adds to a step: what happens between its micro-batches, and the learning rate of its update.
pub trait StepHooks {
    /// A micro-batch is done, and another one follows.
    ///
    /// # Errors
    /// Whatever ends the step before its update.
    fn micro_batches(&mut self) -> Result<()> {
        Ok(())
    }

    /// The gradient is there, clipped: the learning rate of the update.
    ///
    /// # Errors
    /// Whatever ends the step before its update.
    fn gradient_and_update(&mut self, optimizer: &OptimizerHost) -> Result<f64>;
}

/// A fixed learning rate, for callers without callbacks and without a schedule.
impl StepHooks for f64 {
    fn gradient_and_update(&mut self, _: &OptimizerHost) -> Result<f64> {
        Ok(*self)
    }
}

/// What is the same in every step.
pub struct Step<'a> {
    /// The model.
    pub model: &'a CausalLm,
    /// The loss.
    pub loss: &'a Named<dyn Loss>,
    /// The greatest norm of the gradient (`max_grad_norm`); 0 for any.
    pub max_grad_norm: f64,
    /// The other processes that make the same step, each with micro-batches of its own.
    pub ranks: Option<&'a Ranks>,
}

/// What this process computes of an accumulation window.
pub struct Window {
    /// Its micro-batches.
    pub batches: Vec<MicroBatch>,
    /// Supervised tokens of the whole window, over all ranks.
    pub supervised: usize,
    /// The most micro-batches that a rank has.
    pub passes: usize,
}

impl Window {
    /// A window that this process computes alone.
    pub fn whole(batches: Vec<MicroBatch>) -> Self {
        Self {
            supervised: batches.iter().map(MicroBatch::targets).sum(),
            passes: batches.len(),
            batches,
        }
    }
}

/// What a step found.
#[derive(Debug, Clone)]
pub struct StepReport {
    /// What is minimised: the mean over the supervised tokens, and the auxiliary loss with its coefficient.
    pub loss: f64,
    /// The auxiliary loss of the router, without its coefficient; 0 where there is none.
    pub aux_loss: f64,
    /// Supervised tokens that were the most probable one.
    pub right: u64,
    /// Supervised tokens.
    pub supervised: usize,
    /// The loss of each channel, where its micro-batches have channels.
    pub channels: ChannelLosses,
    /// The loss of each example, where they are collected.
    pub rows: RowSums,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// Norm of the gradient before it was clipped.
    pub grad_norm: f64,
    /// The learning rate of the update.
    pub learning_rate: f64,
    /// What the ranks tell of themselves, at rank 0 of several.
    pub loads: Option<Loads>,
}

impl Step<'_> {
    /// Makes one: the gradient of the mean loss over all supervised tokens of the window, and the update. A process that is
    /// alone hears a signal before each micro-batch; until the update the weights are those of the step before.
    ///
    /// # Errors
    /// A signal, a loss or gradient that is not finite, a component that failed, out of memory.
    pub fn make(
        &self,
        optimizer: &mut OptimizerHost,
        window: &Window,
        options: &ForwardOptions,
        hooks: &mut dyn StepHooks,
    ) -> Result<StepReport> {
        self.ranks.map(Ranks::begin_step).transpose()?;
        let mut found = self.passes(window, options, &mut || hooks.micro_batches())?;
        let mut loads = None;
        if let Some(ranks) = self.ranks {
            let load = ranks.load(self.model.device())?;
            let parts = ranks.gather(&(found.clone(), load))?;
            parts.iter().skip(1).for_each(|(part, _)| found.add(part));
            let all: Vec<Load> = parts.into_iter().map(|(_, load)| load).collect();
            loads = Loads::of(&all);
        }
        // As transformers and ms-swift report it.
        let loss = found.loss + options.aux_coef * found.aux_loss;
        let divided = self.ranks.filter(|ranks| ranks.is_divided());
        let total = |here| match divided {
            Some(ranks) => ranks.total(here),
            None => Ok(here),
        };
        let grad_norm = optimizer.clip(self.max_grad_norm, total)?;
        ensure!(
            grad_norm.is_finite(),
            "the gradient is not finite (its norm is {grad_norm}) although the loss is ({loss}): lower \
             learning_rate, or look at the gradient of {}",
            self.loss.label
        );
        let learning_rate = hooks.gradient_and_update(optimizer)?;
        let mut again = || self.passes_again(window, options);
        let passes = Passes {
            run: &mut again,
            total: &total,
        };
        optimizer.step_as_agreed(learning_rate, passes, |here| match self.ranks {
            Some(ranks) => ranks.agreed(here),
            None => here,
        })?;
        if let Some(ranks) = divided {
            ranks.share_updates()?;
        }
        optimizer.zero_grad();
        self.ranks.map(Ranks::end_step).transpose()?;
        Ok(StepReport {
            loss,
            aux_loss: found.aux_loss,
            right: found.right,
            supervised: window.supervised,
            channels: found.channels,
            rows: found.rows,
            tokens: found.tokens,
            grad_norm,
            learning_rate,
            loads,
        })
    }

    /// The forward and backward passes of a step, whose gradients are summed over all ranks; `between` is called before each
    /// micro-batch but the first. Returns what this process has found.
    fn passes(
        &self,
        window: &Window,
        options: &ForwardOptions,
        between: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Found> {
        let mut found = Found::default();
        let reduction = self.ranks.map(|ranks| ranks.reduction(self.model));
        let mut reduction = reduction.transpose()?;
        self.idle_passes(window, reduction.as_mut())?;
        for (at, batch) in window.batches.iter().enumerate() {
            if self.ranks.is_none() {
                signals::check()?;
            }
            let is_last = at + 1 == window.batches.len();
            let mut ready = sending(reduction.as_mut().filter(|_| is_last));
            let micro_batch = self
                .micro_batch(batch, window.supervised, options, &mut ready)
                .with_context(|| format!("micro-batch {at} of {}", batch.described()))?;
            found.add(&micro_batch);
            if !is_last {
                between()?;
            }
        }
        reduction.map(Reduction::finish).transpose()?;
        Ok(found)
    }

    /// The passes of this step once more, for an optimizer that asks for them. Returns what is minimised, on all ranks.
    fn passes_again(&self, window: &Window, options: &ForwardOptions) -> Result<f64> {
        self.ranks.map(Ranks::all_pass_again).transpose()?;
        let found = self.passes(window, options, &mut || Ok(()));
        let mut found = found.context("the passes of the step once more")?;
        if let Some(ranks) = self.ranks {
            let parts = ranks.gather(&found)?;
            parts.iter().skip(1).for_each(|part| found.add(part));
        }
        let loss = found.loss + options.aux_coef * found.aux_loss;
        match self.ranks {
            Some(ranks) => ranks.broadcast(loss),
            None => Ok(loss),
        }
    }

    /// The passes of other ranks that this one has no micro-batch for. With a base that is spread over the ranks all of them make
    /// the same passes. They come first, so that gradients travel in the last pass of every rank, which is one of these
    /// only where there is no micro-batch.
    fn idle_passes(&self, window: &Window, mut reduction: Option<&mut Reduction>) -> Result<()> {
        let decoder = self.model.decoder();
        let is_empty = window.batches.is_empty();
        let missing = match decoder.is_sharded() {
            true => window.passes.saturating_sub(window.batches.len()),
            false => 0,
        };
        let count = missing.max(usize::from(is_empty));
        for at in 0..count {
            decoder.idle_forward(true)?;
            let is_last = is_empty && at + 1 == count;
            let mut ready = sending(reduction.as_deref_mut().filter(|_| is_last));
            ready(Ready::Head)?;
            decoder.idle_backward(&mut ready)?;
        }
        Ok(())
    }

    /// Forward and backward of one micro-batch.
    fn micro_batch(
        &self,
        batch: &MicroBatch,
        supervised: usize,
        options: &ForwardOptions,
        ready: OnReady,
    ) -> Result<Found> {
        let report = batch.train(self.model, self.loss, supervised, options, ready)?;
        let window = supervised.max(1) as f64;
        let mut channels = ChannelLosses::default();
        channels.count(&report.loss.tokens, &batch.channels);
        let mut rows = RowSums::default();
        rows.count(&report.loss.tokens, &batch.places);
        Ok(Found {
            loss: report.loss.sum / window,
            aux_loss: report.aux.unwrap_or(0.0) * batch.targets() as f64 / window,
            right: report.loss.tokens.right(),
            tokens: batch.tokens(),
            channels,
            rows,
        })
    }
}

/// Sends gradients to the other ranks as they become complete, where that is to be done.
fn sending<'a, 'b: 'a>(
    mut reduction: Option<&'a mut Reduction<'b>>,
) -> impl FnMut(Ready) -> Result<()> + use<'a, 'b> {
    move |part| match &mut reduction {
        Some(reduction) => reduction.ready(part),
        None => Ok(()),
    }
}
