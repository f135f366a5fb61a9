//! Losses: supervised tokens to a loss per token.

use crate::{Result, Tensor};

/// Computes the loss of each supervised token.
///
/// Called several times a step, once per chunk of tokens, so that the logits of a whole batch
/// never exist. The host multiplies the result by the tokens' weights, adds it up, divides by the
/// number of supervised tokens of the whole accumulation window, and differentiates it.
pub trait Loss: Send + Sync {
    /// A loss `[n]` (f32), one per token, not yet multiplied by the weights.
    ///
    /// # Errors
    /// Whatever an operation returns; a result of another shape is refused by the host.
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor>;
}

/// `n` supervised tokens.
pub struct LossChunk<'a> {
    /// The token each row should predict, `[n]` (u32).
    pub labels: &'a Tensor,
    /// The weight of each token, `[n]` (f32), for a loss that wants to look at it.
    pub weights: &'a Tensor,
    ops: &'a dyn ChunkOps,
}

impl<'a> LossChunk<'a> {
    /// A chunk; made by the host and by tests.
    pub fn new(labels: &'a Tensor, weights: &'a Tensor, ops: &'a dyn ChunkOps) -> Self {
        Self {
            labels,
            weights,
            ops,
        }
    }

    /// The logits `[n, vocabulary]` in f32. Differentiable, and as large as it sounds.
    ///
    /// # Errors
    /// Out of memory.
    pub fn logits(&self) -> Result<Tensor> {
        self.ops.logits()
    }

    /// The cross entropy of each token `[n]` (f32) by a fused operation. Differentiable.
    ///
    /// # Errors
    /// Out of memory.
    pub fn cross_entropy(&self) -> Result<Tensor> {
        self.ops.cross_entropy()
    }
}

/// What the host provides behind a [`LossChunk`].
pub trait ChunkOps {
    /// See [`LossChunk::logits`].
    ///
    /// # Errors
    /// As there.
    fn logits(&self) -> Result<Tensor>;

    /// See [`LossChunk::cross_entropy`].
    ///
    /// # Errors
    /// As there.
    fn cross_entropy(&self) -> Result<Tensor>;
}
