//! The norm before each half of a layer and before the output head.

use super::param::Weight;
use crate::ops::rms_norm;
use anyhow::Result;
use candle_core::Tensor;

/// `w * x / rms(x)`.
#[derive(Debug)]
pub struct Norm {
    /// Path of the module.
    pub name: String,
    /// `[H]`.
    pub weight: Weight,
    /// Epsilon.
    pub eps: f64,
}

impl Norm {
    /// `x` `[T, H]` to `[T, H]`. The input itself is all that the backward needs.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        rms_norm::forward(x, &self.weight.get(x.dtype())?, self.eps)
    }

    /// `x + delta`, and that normed.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn forward_sum(&self, x: &Tensor, delta: &Tensor) -> Result<(Tensor, Tensor)> {
        rms_norm::forward_sum(x, delta, &self.weight.get(x.dtype())?, self.eps)
    }

    /// Gradient by `x`, to which that by another way, `add`, is added; the weight accumulates its own if it is trained.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn backward(&self, x: &Tensor, dy: &Tensor, add: Option<&Tensor>) -> Result<Tensor> {
        self.weight
            .accumulate(|| rms_norm::weight_grad(x, self.eps, dy))?;
        rms_norm::backward(x, &self.weight.get(x.dtype())?, self.eps, dy, add)
    }
}
