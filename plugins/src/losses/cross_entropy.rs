//! The usual loss of a language model.

use apus_sdk::{Loss, LossChunk, Result, Tensor, register};
use serde::Deserialize;

#[derive(Deserialize)]
struct CrossEntropy;

impl Loss for CrossEntropy {
    fn per_token(&self, chunk: &LossChunk) -> Result<Tensor> {
        chunk.cross_entropy()
    }
}

register! {
    /// Negative log-likelihood of the right token.
    Loss, "cross_entropy", CrossEntropy
}
