//! Batches without padding: sequences one after another in a single row of tokens.

use crate::chat::encode::{Encoded, IGNORED};

/// Sequences joined end to end.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Token ids of all sequences, `[T]`.
    pub input_ids: Vec<u32>,
    /// Labels beside them, -100 where nothing is trained, `[T]`.
    pub labels: Vec<i64>,
    /// Weights beside them, `[T]`.
    pub weights: Vec<f32>,
    /// Length of each sequence; they add up to T.
    pub lengths: Vec<usize>,
    /// The group that each sequence's loss is reported under, if any.
    pub channels: Vec<Option<String>>,
}

/// What is computed in the loss: the positions whose next token is supervised.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    /// Position in the batch's row of tokens, ascending.
    pub index: Vec<u32>,
    /// The token that has to come next there.
    pub targets: Vec<u32>,
    /// Its weight.
    pub weights: Vec<f32>,
}

impl Rows {
    /// Number of supervised targets.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether nothing is supervised.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}

impl Batch {
    /// Joins samples; those without a token are left out.
    pub fn collate(samples: &[&Encoded]) -> Self {
        let mut batch = Self::default();
        for sample in samples.iter().filter(|sample| !sample.is_empty()) {
            batch.input_ids.extend_from_slice(&sample.input_ids);
            batch.labels.extend_from_slice(&sample.labels);
            batch.weights.extend_from_slice(&sample.weights);
            batch.lengths.push(sample.len());
            batch.channels.push(sample.channel.clone());
        }
        batch
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.input_ids.len()
    }

    /// Number of supervised targets: what the loss is divided by, over all batches of a step.
    pub fn targets(&self) -> usize {
        let mut from = 0;
        let of = |length: &usize| {
            let labels = &self.labels[from..from + length];
            from += length;
            labels
                .iter()
                .skip(1)
                .filter(|label| **label != IGNORED)
                .count()
        };
        self.lengths.iter().map(of).sum()
    }

    /// The supervised positions with targets and weights. The last position of a sequence has no
    /// next token, whatever follows it in the row.
    pub fn rows(&self) -> Rows {
        let mut rows = Rows::default();
        let mut from = 0;
        for length in &self.lengths {
            for next in from + 1..from + length {
                if let Ok(target) = u32::try_from(self.labels[next]) {
                    rows.index.push((next - 1) as u32);
                    rows.targets.push(target);
                    rows.weights.push(self.weights[next]);
                }
            }
            from += length;
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(labels: &[i64], weights: &[f32]) -> Encoded {
        Encoded {
            input_ids: (10..10 + labels.len() as u32).collect(),
            labels: labels.to_vec(),
            weights: weights.to_vec(),
            channel: None,
        }
    }

    #[test]
    fn rows_do_not_cross_sequences() {
        let a = sample(&[10, -100, 12], &[1.0, 0.0, 2.0]);
        let b = sample(&[10, 11], &[1.0, 0.5]);
        let batch = Batch::collate(&[&a, &Encoded::default(), &b]);
        assert_eq!(batch.lengths, [3, 2]);
        assert_eq!(batch.input_ids, [10, 11, 12, 10, 11]);
        let expected = Rows {
            index: vec![1, 3],
            targets: vec![12, 11],
            weights: vec![2.0, 0.5],
        };
        assert_eq!(batch.rows(), expected);
        assert_eq!(batch.targets(), 2);
        assert_eq!(a.targets() + b.targets(), 2);
    }
}
