//! Evaluation metrics.

use crate::Result;

/// Adds up something over an evaluation.
pub trait Metric: Send {
    /// Takes in one batch.
    ///
    /// # Errors
    /// Whatever the metric cannot handle.
    fn update(&mut self, batch: &EvalBatch) -> Result<()>;

    /// Names (without `eval_`) and values over all batches since the last call; starts afresh.
    ///
    /// # Errors
    /// Whatever the metric cannot handle.
    fn compute(&mut self) -> Result<Vec<(String, f64)>>;
}

/// The supervised tokens of one batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvalBatch {
    /// The right tokens.
    pub labels: Vec<u32>,
    /// The most probable tokens, one per label.
    pub predictions: Vec<u32>,
    /// Weight of each token in the loss.
    pub weights: Vec<f32>,
    /// Loss of each token, unweighted.
    pub losses: Vec<f32>,
    /// Number of supervised tokens of each sequence, in order; adds up to `labels.len()`.
    pub lengths: Vec<usize>,
}
