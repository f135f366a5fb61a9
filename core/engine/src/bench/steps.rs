//! Makes the optimizer steps of a run on random tokens.

use super::lengths::{draw, rows};
use crate::train::{MicroBatch, OptimizerHost, Sequence, Step, StepReport, Window, parts};
use anyhow::Result;
use apus_components::config::Lengths;
use apus_components::config::SftConfig;
use apus_components::registry::{self, Named};
use apus_model::model::CausalLm;
use apus_model::nn::ForwardOptions;
use apus_sdk::{Loss, TokenRow};
use std::time::Instant;

/// The figures of a step.
#[derive(Debug, Clone)]
pub struct TimedStep {
    /// Seconds, from tokens on the host to new parameters on the device.
    pub seconds: f64,
    /// Lengths of its sequences.
    pub lengths: Vec<usize>,
    /// Trained tokens.
    pub targets: usize,
    /// Mean loss of those.
    pub loss: f64,
}

impl TimedStep {
    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }
}

/// A model in training.
pub struct Stepper<'a> {
    model: &'a CausalLm,
    loss: Named<dyn Loss>,
    optimizer: OptimizerHost,
    learning_rate: f64,
    max_grad_norm: f64,
    options: ForwardOptions,
    data: Data,
    made: usize,
}

/// The random data that it is trained on.
pub struct Data {
    /// Sequences in a step.
    pub batch: usize,
    /// How long they are.
    pub lengths: Lengths,
    /// Share of tokens that are trained.
    pub share: f64,
    /// Seed of lengths and tokens.
    pub seed: u64,
}

impl<'a> Stepper<'a> {
    /// Sets up training by a configuration. The last `kept` layers keep their tape.
    ///
    /// # Errors
    /// A component that there is not, or options that do not fit.
    pub fn new(config: &SftConfig, model: &'a CausalLm, kept: usize, data: Data) -> Result<Self> {
        let (spec, _) = parts::optimizer(config, &|_| None)?;
        Ok(Self {
            model,
            loss: registry::named(&config.loss_type)?,
            optimizer: OptimizerHost::new(
                registry::named(&spec)?,
                model.params().to_vec(),
                config.lorap_lr_ratio,
            ),
            learning_rate: config.base_lr(),
            max_grad_norm: config.max_grad_norm,
            options: ForwardOptions {
                training: true,
                kept_layers: kept,
                dropout_seed: Some(config.seed),
                aux_coef: config.router_aux_loss_coef,
                neftune: None,
            },
            data,
            made: 0,
        })
    }

    /// Makes one step.
    pub fn step(&mut self) -> Result<TimedStep> {
        let Data {
            batch,
            share,
            seed,
            lengths,
        } = &self.data;
        let lengths = draw(lengths, *batch, *seed, self.made);
        let vocabulary = self.model.config().architecture.vocab_size;
        let rows = rows(&lengths, *share, vocabulary, (*seed, self.made));
        self.made += 1;

        let start = Instant::now();
        let report = self.train(&rows)?;
        self.model.device().synchronize()?;
        Ok(TimedStep {
            seconds: start.elapsed().as_secs_f64(),
            lengths,
            targets: report.supervised,
            loss: report.loss,
        })
    }

    fn train(&mut self, rows: &[TokenRow]) -> Result<StepReport> {
        let sequences = rows
            .iter()
            .map(|row| -> Sequence { (&row.input_ids, &row.labels, None) });
        let batch = MicroBatch::new(sequences, self.model.device())?;
        let step = Step {
            model: self.model,
            loss: &self.loss,
            max_grad_norm: self.max_grad_norm,
            ranks: None,
        };
        let options = |_| self.options.clone();
        step.make(
            &mut self.optimizer,
            &Window::whole(vec![batch]),
            options,
            &mut self.learning_rate,
        )
    }
}
