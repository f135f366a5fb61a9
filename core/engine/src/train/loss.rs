//! From hidden states to a loss and back, over supervised tokens only, a chunk at a time.

use crate::host::{ChunkContext, chunk_loss};
use anyhow::Result;
use apus_components::registry::Named;
use apus_model::nn::Head;
use apus_model::profile::{self, OpGroup};
use apus_sdk::{BatchRow, ChunkRows, Loss, Need};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};

/// Most rows of a chunk: enough to keep the matrix units busy, and 0.4 GiB of bf16 logits for 201,088 tokens, which
/// is less than one layer works with.
const CHUNK_ROWS: usize = 1024;
/// Most logits of a chunk, for larger vocabularies.
const CHUNK_ELEMENTS: usize = 1 << 28;

/// Rows of a chunk of logits.
pub fn chunk_rows(vocabulary: usize) -> usize {
    (CHUNK_ELEMENTS / vocabulary.max(1)).clamp(64, CHUNK_ROWS)
}

/// The supervised positions of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Supervised {
    /// Position of each supervised token's *predecessor* among all tokens, ascending.
    pub rows: Vec<u32>,
    /// The right token for each.
    pub labels: Vec<u32>,
    /// Its weight.
    pub weights: Vec<f32>,
    /// Number of supervised tokens of each sequence.
    pub lengths: Vec<usize>,
    /// Where each sequence begins among all tokens.
    pub starts: Vec<u32>,
    /// The number of the step, in training, and the row of each sequence, where the loss asks for them.
    pub origin: (Option<u64>, Vec<BatchRow>),
}

impl Supervised {
    /// The rows of the tokens from `start` on.
    fn chunk_rows(&self, start: usize, len: usize) -> ChunkRows {
        let of = self.lengths.iter().enumerate();
        let of = of.flat_map(|(sequence, &length)| std::iter::repeat_n(sequence, length));
        let sequences: Vec<u32> = of.skip(start).take(len).map(|one| one as u32).collect();
        let rows = self.rows[start..start + len].iter();
        let positions = rows.zip(&sequences);
        // The label stands after its predecessor.
        let positions = positions.map(|(row, one)| row + 1 - self.starts[*one as usize]);
        let positions = positions.collect();
        let (step, rows) = &self.origin;
        ChunkRows::new(sequences, positions, rows.clone()).at_step(*step)
    }
}

impl Tokens {
    /// Of each sequence, the sum of weight times loss and the number of its supervised tokens.
    pub fn of_sequences(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut start = 0;
        self.lengths.iter().map(move |&length| {
            let range = start..start + length;
            start = range.end;
            let pairs = self.losses[range.clone()].iter().zip(&self.weights[range]);
            let loss = pairs.map(|(&loss, &weight)| f64::from(loss) * f64::from(weight));
            (loss.sum(), length as u64)
        })
    }

    /// How many of the most probable tokens are the right ones.
    pub fn right(&self) -> u64 {
        let pairs = self.labels.iter().zip(&self.predictions);
        pairs
            .filter(|(label, prediction)| label == prediction)
            .count() as u64
    }
}

/// What is known of each supervised token.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tokens {
    /// The right tokens.
    pub labels: Vec<u32>,
    /// The most probable tokens.
    pub predictions: Vec<u32>,
    /// Weight of each in the loss.
    pub weights: Vec<f32>,
    /// Loss of each, unweighted.
    pub losses: Vec<f32>,
    /// Number of supervised tokens of each sequence.
    pub lengths: Vec<usize>,
}

/// What the supervised tokens of a batch gave.
pub struct LossReport {
    /// Sum of weight times loss.
    pub sum: f64,
    /// Labels, predictions and losses, for metrics.
    pub tokens: Tokens,
    /// Gradient of `sum * scale` by the hidden states `[T, H]`, if asked for.
    pub dhidden: Option<Tensor>,
}

/// Loss of the supervised tokens; with `scale`, also the gradient of `sum(weight * loss) * scale`,
/// accumulated into the head's trainable parameters and returned for the hidden states.
///
/// `hidden` `[T, H]` is the last layer's output before the final norm; only its supervised rows are kept. The
/// numbers of all chunks are fetched from the device at once, after the last.
///
/// # Errors
/// The loss component failed, or the device ran out of memory.
pub fn head_loss(
    head: &Head,
    loss: &Named<dyn Loss>,
    hidden: Tensor,
    supervised: &Supervised,
    scale: Option<f64>,
) -> Result<LossReport> {
    let _span = profile::whole(OpGroup::Head);
    let device = hidden.device().clone();
    let Supervised {
        rows,
        labels,
        weights,
        lengths,
        ..
    } = supervised;
    let mut tokens = Tokens {
        labels: labels.clone(),
        weights: weights.clone(),
        lengths: lengths.clone(),
        ..Tokens::default()
    };
    if rows.is_empty() {
        let dhidden = scale.map(|_| hidden.zeros_like()).transpose()?;
        return Ok(LossReport {
            sum: 0.0,
            tokens,
            dhidden,
        });
    }
    let total = hidden.dim(0)?;
    let picked = hidden.index_select(&Tensor::new(rows.as_slice(), &device)?, 0)?;
    drop(hidden);
    // The gradient of a chunk takes the place of its rows here.
    let (normed, tape) = head.forward(&picked)?;
    drop(picked);
    let labels = Tensor::new(labels.as_slice(), &device)?;
    let weights_dev = Tensor::new(weights.as_slice(), &device)?;
    let chunk = chunk_rows(head.vocab_size());
    let (mut losses, mut predictions) = (Vec::new(), Vec::new());
    for start in (0..rows.len()).step_by(chunk) {
        let len = chunk.min(rows.len() - start);
        let part = normed.narrow(0, start, len)?;
        let found = chunk_loss(
            loss,
            head.logits(&part)?,
            &labels.narrow(0, start, len)?,
            &weights_dev.narrow(0, start, len)?,
            scale,
            ChunkContext {
                rows: match loss.declares(Need::ChunkRows) {
                    true => supervised.chunk_rows(start, len),
                    false => ChunkRows::default(),
                },
                hidden: loss.declares(Need::HiddenStates).then(|| part.clone()),
            },
        )?;
        losses.push(found.per_token);
        predictions.push(found.predictions);
        let by_logits = found.dlogits.map(|by| head.logits_backward(&part, &by));
        let gradient = match (by_logits.transpose()?, found.dhidden) {
            (Some(by_logits), Some(more)) => Some((by_logits + more)?),
            (one, other) => one.or(other),
        };
        if let Some(gradient) = gradient {
            normed.slice_set(&gradient, 0, start)?;
        }
    }
    tokens.losses = Tensor::cat(&losses, 0)?.to_vec1()?;
    tokens.predictions = Tensor::cat(&predictions, 0)?.to_vec1()?;
    let sum = tokens
        .losses
        .iter()
        .zip(weights)
        .map(|(&l, &w)| f64::from(l) * f64::from(w))
        .sum();
    let dhidden = match scale {
        Some(_) => {
            let drows = head.backward(&tape, &normed)?;
            drop((tape, normed));
            Some(spread(&drows, rows, total)?)
        }
        None => None,
    };
    Ok(LossReport {
        sum,
        tokens,
        dhidden,
    })
}

/// Rows of `drows` at their positions among `total` rows, zeros elsewhere: a gather, since scattering is serial on the
/// GPU, in which the greatest index stands for a row of zeros (candle's `index_select`).
fn spread(drows: &Tensor, rows: &[u32], total: usize) -> Result<Tensor> {
    let mut source = vec![u32::MAX; total];
    for (i, &row) in rows.iter().enumerate() {
        source[row as usize] = i as u32;
    }
    let source = Tensor::new(source.as_slice(), drows.device())?;
    Ok(drows.index_select(&source, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rows_return_to_their_positions() {
        let drows = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let spread = spread(&drows, &[0, 2], 4)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        assert_eq!(spread, [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]);
    }

    #[test]
    fn tokens_of_a_chunk_know_sequence_and_position() {
        let supervised = Supervised {
            rows: vec![1, 2, 5, 7],
            lengths: vec![2, 0, 2],
            starts: vec![0, 4, 5],
            origin: (Some(3), vec![BatchRow::default(); 3]),
            ..Supervised::default()
        };
        let rows = supervised.chunk_rows(1, 3);
        assert_eq!(rows.sequences(), [0, 2, 2]);
        assert_eq!(rows.positions(), [3, 1, 3]);
        assert_eq!((rows.step(), rows.of_tokens().count()), (Some(3), 3));
    }
}
