//! The output head: final norm and projection to the vocabulary, on the rows that are asked for.

use super::linear::Linear;
use super::norm::Norm;
use crate::ops::linear;
use anyhow::Result;
use candle_core::Tensor;

/// Final norm and `lm_head`.
#[derive(Debug)]
pub struct Head {
    /// Final norm.
    pub norm: Norm,
    /// `[V, H]`, without bias.
    pub lm_head: Linear,
}

/// What [`Head::backward`] needs.
#[derive(Debug)]
pub struct Tape {
    rows: Tensor,
}

impl Head {
    /// Rows of the last layer's output `[n, H]`, normed.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn forward(&self, rows: &Tensor) -> Result<(Tensor, Tape)> {
        Ok((self.norm.forward(rows)?, Tape { rows: rows.clone() }))
    }

    /// Logits `[n, V]` of normed rows.
    ///
    /// # Errors
    /// Out of memory.
    pub fn logits(&self, normed: &Tensor) -> Result<Tensor> {
        linear::forward(normed, &self.lm_head.weight.get(normed.dtype())?, None)
    }

    /// Gradient by the normed rows from that by their logits.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn logits_backward(&self, normed: &Tensor, dlogits: &Tensor) -> Result<Tensor> {
        self.lm_head
            .weight
            .accumulate(|| linear::weight_grad(normed, dlogits))?;
        linear::input_grad(dlogits, &self.lm_head.weight.get(dlogits.dtype())?)
    }

    /// Gradient by the rows from that by the normed rows.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn backward(&self, tape: &Tape, dnormed: &Tensor) -> Result<Tensor> {
        self.norm.backward(&tape.rows, dnormed, None)
    }

    /// Rows of the projection.
    pub fn vocab_size(&self) -> usize {
        self.lm_head.weight.dims()[0]
    }
}
