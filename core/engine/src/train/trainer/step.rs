//! One optimizer step.

use super::super::batch::{MicroBatch, sequence};
use super::super::examples::Group;
use super::super::gradient_check;
use super::super::screen::StepNumbers;
use super::Trainer;
use anyhow::{Context, Result, ensure};
use apus_base::signals;
use apus_model::model::{ForwardOptions, Neftune};
use std::time::Instant;

impl Trainer<'_> {
    /// One optimizer step over its micro-batches. A signal is heard before each of them; the weights are those of
    /// the step before then.
    pub(super) fn step(&mut self, groups: &[Group]) -> Result<()> {
        let started = Instant::now();
        self.events.on_step_begin(&self.state)?;
        let batches: Vec<MicroBatch> = groups
            .iter()
            .map(|group| {
                let rows = group.rows.iter().map(|row| sequence(row));
                MicroBatch::new(rows, self.model.device())
            })
            .collect::<Result<_>>()?;
        let samples = groups.iter().map(|group| group.numbers.len()).sum();
        let window: usize = batches.iter().map(MicroBatch::targets).sum();
        let (mut loss, mut aux, mut right, mut tokens) = (0.0, 0.0, 0, 0);
        for (index, batch) in batches.iter().enumerate() {
            signals::check()?;
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
        // What is minimised, the auxiliary loss with its weight in it, as transformers and ms-swift report it.
        loss += self.settings.router_aux_loss_coef * aux;
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
        let heard = self.events.on_optimizer_step(&self.state);
        self.optimizer.zero_grad();
        self.model.device().synchronize()?;

        // From here on the step is made, whatever callbacks say to it.
        self.clock.count(started.elapsed(), samples, tokens, loss);
        self.position = self.examples.state();
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
        heard?;
        self.events.on_step_end(&self.state)
    }

    fn forward_options(&self, micro_batch: usize) -> ForwardOptions {
        let s = self.settings;
        let step = self.state.global_step.wrapping_mul(1 << 20) + micro_batch as u64;
        let seed = s.seed.rotate_left(40) ^ step;
        ForwardOptions {
            training: true,
            kept_layers: s.kept_layers,
            dropout_seed: Some(seed),
            aux_coef: s.router_aux_loss_coef,
            neftune: s.neftune_noise_alpha.map(|alpha| Neftune { alpha, seed }),
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
        Ok(self.settings.learning_rate * factor * self.events.lr_factor())
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
