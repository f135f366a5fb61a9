//! Makes the optimizer steps of a run on random tokens.

use super::lengths::{draw, rows};
use crate::train::optimizer::groups;
use crate::train::ranks::{Limit, Loads, Ranks, share};
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
    /// Lengths of its sequences, over all ranks.
    pub lengths: Vec<usize>,
    /// Trained tokens, over all ranks.
    pub targets: usize,
    /// Lengths and trained tokens of what this rank computed.
    pub own: (Vec<usize>, usize),
    /// Mean loss of those.
    pub loss: f64,
    /// What the ranks tell of themselves, at rank 0 of several.
    pub loads: Option<Loads>,
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
    ranks: Option<&'a Ranks>,
    made: usize,
}

/// The random data that it is trained on.
pub struct Data {
    /// Sequences in a step of each rank.
    pub batch: usize,
    /// How long they are.
    pub lengths: Lengths,
    /// Share of tokens that are trained.
    pub share: f64,
    /// Seed of lengths and tokens.
    pub seed: u64,
}

impl<'a> Stepper<'a> {
    /// Sets up training by a configuration. The last `kept` layers keep their tape; an optimizer that is `divided` updates
    /// on each rank the parameters of that rank.
    ///
    /// # Errors
    /// A component that there is not, or options that do not fit.
    pub fn new(
        config: &SftConfig,
        model: &'a CausalLm,
        kept: usize,
        data: Data,
        ranks: Option<&'a Ranks>,
        divided: bool,
    ) -> Result<Self> {
        let (spec, _) = parts::optimizer(config, &|_| None)?;
        let mut optimizer = OptimizerHost::new(
            groups::make(&spec, config.base_lr())?,
            model.params().to_vec(),
        );
        if let Some(ranks) = ranks.filter(|_| divided) {
            ranks.divide(model, &mut optimizer)?;
        }
        Ok(Self {
            model,
            loss: registry::named(&config.loss_type)?,
            optimizer,
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
            ranks,
            made: 0,
        })
    }

    /// Makes one step.
    pub fn step(&mut self) -> Result<TimedStep> {
        let Data {
            batch,
            share: trained_share,
            seed,
            lengths,
        } = &self.data;
        let (rank, size) = self
            .ranks
            .map_or((0, 1), |ranks| (ranks.rank(), ranks.size()));
        let lengths = draw(lengths, *batch * size, *seed, self.made);
        let vocabulary = self.model.config().architecture.vocab_size;
        let rows = rows(&lengths, *trained_share, vocabulary, (*seed, self.made));
        self.made += 1;
        let targets = rows.iter().map(supervised).sum();
        let groups: Vec<Vec<usize>> = lengths.chunks(*batch).map(<[usize]>::to_vec).collect();
        let limit = Limit {
            examples: *batch,
            tokens: usize::MAX,
        };
        let shares = share(&groups, size, Some(limit));
        let own: Vec<&TokenRow> = shares[rank].iter().flatten().map(|&at| &rows[at]).collect();

        let start = Instant::now();
        let report = self.train(&own, targets)?;
        self.model.device().synchronize()?;
        Ok(TimedStep {
            seconds: start.elapsed().as_secs_f64(),
            lengths,
            targets,
            own: (
                own.iter().map(|row| row.input_ids.len()).collect(),
                own.iter().map(|row| supervised(row)).sum(),
            ),
            loss: report.loss,
            loads: report.loads,
        })
    }

    /// Trains these rows, which have a part of the trained tokens of the step.
    fn train(&mut self, rows: &[&TokenRow], supervised: usize) -> Result<StepReport> {
        let sequences = rows
            .iter()
            .map(|row| -> Sequence { (&row.input_ids, &row.labels, None) });
        let batches = match rows.is_empty() {
            true => Vec::new(),
            false => vec![MicroBatch::new(sequences, self.model.device())?],
        };
        let step = Step {
            model: self.model,
            loss: &self.loss,
            max_grad_norm: self.max_grad_norm,
            ranks: self.ranks,
        };
        let window = Window {
            batches,
            supervised,
            passes: 1,
        };
        step.make(
            &mut self.optimizer,
            &window,
            &self.options,
            &mut self.learning_rate,
        )
    }
}

/// The trained tokens of a row.
fn supervised(row: &TokenRow) -> usize {
    // The first token is predicted by nothing.
    row.labels
        .iter()
        .skip(1)
        .filter(|&&label| label >= 0)
        .count()
}
