//! The loss of each row of an evaluation, gathered as a metric of tokens, and what rows say of a mean.

use apus_sdk::{EvalBatch, Metric, Result};
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};

/// The losses of a row's trained tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct RowLoss {
    /// Sum of weight times loss.
    pub sum: f64,
    /// Sum of the losses, unweighted.
    pub unweighted: f64,
    /// Number of trained tokens.
    pub tokens: usize,
}

/// Gathers the losses of rows, in their order; clones gather in one place.
#[derive(Clone, Default)]
pub struct RowLosses(Arc<Mutex<Vec<RowLoss>>>);

impl RowLosses {
    /// What was gathered.
    pub fn take(&self) -> Vec<RowLoss> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Metric for RowLosses {
    fn update(&mut self, batch: &EvalBatch) -> Result<()> {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut start = 0;
        for &tokens in batch.lengths {
            let range = start..start + tokens;
            start = range.end;
            let losses = batch.losses[range.clone()]
                .iter()
                .map(|&loss| f64::from(loss));
            let weighted = losses.clone().zip(&batch.weights[range]);
            rows.push(RowLoss {
                sum: weighted
                    .map(|(loss, &weight)| loss * f64::from(weight))
                    .sum(),
                unweighted: losses.sum(),
                tokens,
            });
        }
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        Ok(Vec::new())
    }
}

/// A mean over tokens with its standard error by row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its standard error; none of a single row.
    pub standard_error: Option<f64>,
}

impl Mean {
    /// The mean of sums over numbers of tokens. Rows are drawn together, tokens are not: it is the ratio of two sums over
    /// rows, whose error follows from how far each row is from it (Cochran, Sampling Techniques, 1977, 6.3).
    pub fn of(rows: impl Iterator<Item = (f64, usize)> + Clone) -> Self {
        let tokens: usize = rows.clone().map(|(_, tokens)| tokens).sum();
        let sum: f64 = rows.clone().map(|(sum, _)| sum).sum();
        let mean = sum / tokens.max(1) as f64;
        let squares = rows
            .clone()
            .map(|(sum, tokens)| (sum - mean * tokens as f64).powi(2));
        let (squares, count) = (squares.sum::<f64>(), rows.count() as f64);
        let error = (squares * count / (count - 1.0)).sqrt() / tokens.max(1) as f64;
        Self {
            mean,
            standard_error: (count > 1.0 && tokens > 0).then_some(error),
        }
    }

    /// The mean difference between two models on the same rows, in pairs.
    pub fn of_difference(rows: &[RowLoss], base: &[RowLoss]) -> Self {
        let pairs = rows.iter().zip(base);
        Self::of(pairs.map(|(row, base)| (row.sum - base.sum, row.tokens)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(losses: &[(f64, usize)]) -> Vec<RowLoss> {
        let row = |&(sum, tokens): &(f64, usize)| RowLoss {
            sum,
            unweighted: sum,
            tokens,
        };
        losses.iter().map(row).collect()
    }

    #[test]
    fn rows_of_one_length_give_the_usual_error() {
        let found = Mean::of([(2.0, 2), (4.0, 2), (9.0, 2)].into_iter());
        // Means of rows 1, 2 and 4.5: 2.5 with a deviation of 1.8028.
        assert!((found.mean - 2.5).abs() < 1e-12);
        let expected = (3.25f64 / 3.0).sqrt();
        assert!(
            (found.standard_error.unwrap() - expected).abs() < 1e-12,
            "{found:?}"
        );
    }

    #[test]
    fn a_long_row_counts_by_its_tokens() {
        let found = Mean::of([(1.0, 1), (27.0, 9)].into_iter());
        assert_eq!(found.mean, 2.8);
        let single = Mean::of([(3.0, 4)].into_iter());
        assert_eq!((single.mean, single.standard_error), (0.75, None));
        assert_eq!(Mean::of([].into_iter()).mean, 0.0);
    }

    #[test]
    fn a_difference_in_pairs_is_surer_than_two_means() {
        let base = rows(&[(1.0, 1), (5.0, 1), (30.0, 2)]);
        let better = rows(&[(0.9, 1), (4.8, 1), (29.5, 2)]);
        let difference = Mean::of_difference(&better, &base);
        assert!((difference.mean + 0.2).abs() < 1e-12, "{difference:?}");
        let alone = Mean::of(base.iter().map(|row| (row.sum, row.tokens)));
        assert!(difference.standard_error.unwrap() < 0.05 && alone.standard_error.unwrap() > 1.0);
        assert_eq!(Mean::of_difference(&base, &base).standard_error, Some(0.0));
    }
}
