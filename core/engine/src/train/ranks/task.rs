//! What rank 0 gives the others to do, and what they answer.
//!
//! Rank 0 runs the whole page of a run: data, callbacks, log and checkpoints are there alone. The others keep a model and an
//! optimizer and are told step by step what to compute, so that every decision is made once and cannot differ.

use crate::train::batch::{MicroBatch, batch_row};
use crate::train::channel_loss::ChannelLosses;
use crate::train::examples::Example;
use crate::train::loss::Tokens;
use crate::train::optimizer::Hook;
use crate::train::requested::Requested;
use crate::train::row_loss::RowSums;
use anyhow::Result;
use apus_data::chat::Encoded;
use apus_model::ops::TokenKey;
use apus_sdk::BatchRow;
use candle_core::Device;
use serde::{Deserialize, Serialize};

/// What all ranks need before they load the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Tokens of the examples of the largest micro-batch, for the memory plan.
    pub lengths: Vec<usize>,
    /// Whether the frozen base is spread over the ranks.
    pub shard_base: bool,
    /// Whether each rank updates a part of the parameters.
    pub divided: bool,
    /// A hash over the model's files, which every host reads for itself.
    pub model: String,
}

/// What a rank is told to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Task {
    /// An optimizer step.
    Step(StepTask),
    /// Loss and predictions of a batch of an evaluation; none for a rank that has nothing to do in this round.
    Evaluate(Option<BatchData>),
    /// Rank 0 runs tokens of an answer through a base that is spread over the ranks: all gather its layers.
    Forward,
    /// All ranks compare their weights after so many steps.
    Compare(u64),
    /// Rank 0 saves the optimizer's state, of which each rank has a part.
    GiveState,
    /// The optimizer sets other weights for an evaluation or a checkpoint, or takes them back.
    Hook(Hook),
    /// Rank 0 gives all ranks its weights.
    TakeWeights,
    /// What callbacks have asked of the parameters; it holds from the next step on.
    Obey(Requested),
    /// The run has a folder, in which a rank prints from now on if its host has it too.
    PrintInto(String),
    /// The run is over.
    End,
}

/// A rank's part of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepTask {
    /// Steps made before.
    pub step: u64,
    /// Supervised tokens of the whole accumulation window, over all ranks.
    pub supervised: usize,
    /// The micro-batches.
    pub batches: Vec<BatchData>,
    /// The most micro-batches that a rank has.
    pub passes: usize,
}

/// A micro-batch, as it goes to another rank.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchData {
    /// Ids, labels, weights of each sequence.
    pub sequences: Vec<(Vec<u32>, Vec<i64>, Vec<f32>)>,
    /// The numbers of its examples in the data.
    pub examples: Vec<usize>,
    /// In training the first token of each sequence: the place of its example in the step, and its own in the example.
    pub firsts: Vec<(u32, u32)>,
    /// The channel of each sequence, where their losses are reported.
    pub channels: Vec<String>,
    /// Whether the losses of examples are collected.
    pub counts_rows: bool,
    /// The number of the step, in training, and the row of each sequence, where the loss asks for them.
    pub origin: (Option<u64>, Vec<BatchRow>),
}

impl BatchData {
    /// Of these samples.
    pub fn new<'a>(samples: impl IntoIterator<Item = &'a Encoded>) -> Self {
        let sequences = samples.into_iter().map(|sample| {
            let (ids, labels, weights) = sample.sequence();
            let weights = weights.unwrap_or_default();
            (ids.to_vec(), labels.to_vec(), weights.to_vec())
        });
        Self {
            sequences: sequences.collect(),
            ..Self::default()
        }
    }

    /// The same, for a loss that asks for rows: those of samples of an evaluation.
    #[must_use]
    pub fn of_rows<'a>(mut self, samples: impl IntoIterator<Item = &'a Encoded>) -> Self {
        let rows = samples.into_iter();
        let rows = rows.map(|sample| batch_row(None, sample));
        self.origin = (None, rows.collect());
        self
    }

    /// Of examples of a step, each with its place in it.
    pub fn of_examples<'a>(examples: impl IntoIterator<Item = (usize, &'a Example<'a>)>) -> Self {
        let mut all = Self::default();
        for (at, example) in examples {
            let mut place = 0;
            for row in &example.rows {
                all.firsts.push((at as u32, place));
                place += row.len() as u32;
            }
            all.sequences
                .extend(Self::new(example.rows.iter().map(AsRef::as_ref)).sequences);
            all.examples.push(example.number);
        }
        all
    }

    /// The micro-batch on the device.
    pub fn batch(&self, device: &Device) -> Result<MicroBatch> {
        let sequences = self
            .sequences
            .iter()
            .map(|(ids, labels, weights)| (&ids[..], &labels[..], Some(&weights[..])));
        let mut batch = MicroBatch::new(sequences, device)?.of_examples(&self.examples);
        if !self.firsts.is_empty() {
            let firsts = self.firsts.iter();
            let key = |&(example, place): &(u32, u32)| TokenKey { example, place };
            batch = batch.beginning_at(firsts.map(key).collect())?;
        }
        if self.counts_rows {
            let places = self.firsts.iter().map(|(example, _)| *example);
            batch = batch.at_places(places.collect());
        }
        let (step, rows) = self.origin.clone();
        Ok(batch.of_channels(self.channels.clone()).of_rows(step, rows))
    }
}

/// What a rank's part of a step found, or the sum over several of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Weight times loss over the supervised tokens of the window.
    pub loss: f64,
    /// The auxiliary loss, weighted by the share of its micro-batch in the window.
    pub aux_loss: f64,
    /// Supervised tokens that were the most probable one.
    pub right: u64,
    /// Tokens that went through the model.
    pub tokens: usize,
    /// The loss of each channel.
    pub channels: ChannelLosses,
    /// The loss of each example, where they are collected.
    pub rows: RowSums,
}

impl Found {
    /// Adds what another part found.
    pub fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.aux_loss += other.aux_loss;
        self.right += other.right;
        self.tokens += other.tokens;
        self.channels.merge(&other.channels);
        self.rows.merge(&other.rows);
    }
}

/// What a batch of an evaluation gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Sum of weight times loss.
    pub loss: f64,
    /// The auxiliary loss.
    pub aux_loss: f64,
    /// Supervised tokens, as the auxiliary loss weighs them.
    pub targets: usize,
    /// Labels, predictions and losses.
    pub tokens: Tokens,
}
