//! The root-mean-square norm, with and without an addend: before each half of a layer, before the output head, on the heads
//! of queries and keys.

use super::param::Weight;
use crate::ops::rms_norm;
use anyhow::Result;
use candle_core::Tensor;

/// A norm computes `w * x / rms(x)` of each row.
#[derive(Debug)]
pub struct Norm {
    /// The path of the module.
    pub name: String,
    /// `[H]`.
    pub weight: Weight,
    /// The epsilon.
    pub eps: f64,
}

impl Norm {
    /// Norms `x` `[T, H]`. The backward pass needs nothing but `x`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        rms_norm::forward(x, &self.weight.get(x.dtype())?, self.eps)
    }

    /// Returns `x + delta`, and that normed.
    pub fn forward_sum(&self, x: &Tensor, delta: &Tensor) -> Result<(Tensor, Tensor)> {
        rms_norm::forward_sum(x, delta, &self.weight.get(x.dtype())?, self.eps)
    }

    /// Returns the gradient by `x` plus `add`, the gradient that reaches `x` by another path; the weight accumulates its
    /// own gradient if it is trained.
    pub fn backward(&self, x: &Tensor, dy: &Tensor, add: Option<&Tensor>) -> Result<Tensor> {
        self.weight
            .accumulate(|| rms_norm::weight_grad(x, self.eps, dy))?;
        rms_norm::backward(x, &self.weight.get(x.dtype())?, self.eps, dy, add)
    }
}
