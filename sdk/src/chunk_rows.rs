//! Which sequences and rows of the data the tokens of a chunk belong to.

use serde::{Deserialize, Serialize};

/// The tokens of a [`LossChunk`](crate::LossChunk) in their batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChunkRows {
    step: Option<u64>,
    sequences: Vec<u32>,
    positions: Vec<u32>,
    rows: Vec<BatchRow>,
}

impl ChunkRows {
    /// Tokens that belong to these sequences (indices of `rows`), at these positions of them.
    pub fn new(sequences: Vec<u32>, positions: Vec<u32>, rows: Vec<BatchRow>) -> Self {
        Self {
            step: None,
            sequences,
            positions,
            rows,
        }
    }

    /// The same in the step of this number.
    #[must_use]
    pub fn at_step(self, step: Option<u64>) -> Self {
        Self { step, ..self }
    }

    /// The number of the step that is computed, from 1; none in an evaluation.
    pub fn step(&self) -> Option<u64> {
        self.step
    }

    /// For each token the index of its sequence among those of the batch of this rank.
    pub fn sequences(&self) -> &[u32] {
        &self.sequences
    }

    /// For each token its position in its sequence: that of the label, which is predicted from the position before.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The row of each sequence of the batch, those without a token in this chunk included.
    pub fn rows(&self) -> &[BatchRow] {
        &self.rows
    }

    /// The row of each token.
    pub fn of_tokens(&self) -> impl Iterator<Item = &BatchRow> {
        let sequences = self.sequences.iter();
        sequences.filter_map(|&sequence| self.rows.get(sequence as usize))
    }
}

/// A row of the data whose tokens are a sequence of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchRow {
    number: Option<u64>,
    channel: Option<String>,
}

impl BatchRow {
    /// A row of this number and channel.
    pub fn new(number: Option<u64>, channel: Option<String>) -> Self {
        Self { number, channel }
    }

    /// The number of its example among those that are trained on, from 0; rows that are packed together have one. None in
    /// an evaluation.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// Its channel, from its column `channel`.
    pub fn channel(&self) -> Option<&str> {
        self.channel.as_deref()
    }
}
