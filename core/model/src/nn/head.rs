//! The output head: the final norm and the projection to the vocabulary, for the rows that are asked for.

use super::linear::Linear;
use super::norm::Norm;
use crate::ops::linear;
use anyhow::Result;
use candle_core::Tensor;

/// The final norm and the projection.
#[derive(Debug)]
pub struct Head {
    /// The final norm.
    pub norm: Norm,
    /// The projection `[V, H]`, without bias.
    pub lm_head: Linear,
    /// Whether the projection's weight is the embedding's, which then accumulates the gradients of both.
    pub tied: bool,
}

/// What [`Head::backward`] needs.
#[derive(Debug)]
pub struct Tape {
    rows: Tensor,
}

impl Head {
    /// Norms rows of the last layer's output `[n, H]`.
    pub fn forward(&self, rows: &Tensor) -> Result<(Tensor, Tape)> {
        Ok((self.norm.forward(rows)?, Tape { rows: rows.clone() }))
    }

    /// Computes the logits `[n, V]` of normed rows.
    pub fn logits(&self, normed: &Tensor) -> Result<Tensor> {
        linear::forward(normed, &self.lm_head.weight.get(normed.dtype())?, None)
    }

    /// Returns the gradient by the normed rows from that by their logits.
    pub fn logits_backward(&self, normed: &Tensor, dlogits: &Tensor) -> Result<Tensor> {
        self.lm_head
            .weight
            .accumulate(|| linear::weight_grad(normed, dlogits))?;
        linear::input_grad(dlogits, &self.lm_head.weight.get(dlogits.dtype())?)
    }

    /// Returns the gradient by the rows from that by the normed rows.
    pub fn backward(&self, tape: &Tape, dnormed: &Tensor) -> Result<Tensor> {
        self.norm.backward(&tape.rows, dnormed, None)
    }

    /// The number of rows of the projection.
    pub fn vocab_size(&self) -> usize {
        self.lm_head.weight.dims()[0]
    }
}
