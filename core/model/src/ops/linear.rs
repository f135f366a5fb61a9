//! A linear layer: `y = x w^T + b`, and its gradients.

use super::grouped;
use super::groups::Groups;
use crate::profile::{self, Group};
use anyhow::Result;
use candle_core::Tensor;

/// `x` `[T, I]`, `w` `[O, I]`, `bias` `[O]` to `[T, O]`.
///
/// # Errors
/// Shapes do not fit.
pub fn forward(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let _span = profile::whole(Group::Projections);
    let y = product(x, w)?;
    let Some(bias) = bias else { return Ok(y) };
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = y.device().clone() {
        return super::cuda::linear::add_bias(y, bias, &cuda);
    }
    let rows = y.dim(0)?;
    let groups = Groups::one(rows, y.device())?;
    grouped::add_bias(y, &bias.unsqueeze(0)?, &groups)
}

/// `x w^T`. A product of few outputs (a router's) costs reading `x` once and has a kernel for that.
fn product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device()
        && x.dtype() == candle_core::DType::BF16
        && super::cuda::lora::fits(w.dim(0)?, w.dim(1)?)
    {
        return super::cuda::lora::narrow(x, w, cuda);
    }
    Ok(x.matmul(&w.t()?)?)
}

/// Gradient by `x`: `dy w`.
///
/// # Errors
/// Shapes do not fit.
pub fn input_grad(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let _span = profile::whole(Group::Projections);
    Ok(dy.matmul(w)?)
}

/// Gradient by `w`, `[O, I]` f32: `dy^T x`.
///
/// # Errors
/// Shapes do not fit.
pub fn weight_grad(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let _span = profile::whole(Group::Projections);
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device() {
        return super::cuda::linear::weight_grad(x, dy, cuda);
    }
    Ok(dy.t()?.matmul(x)?)
}

/// Gradient by the bias, `[O]` f32: the sum of `dy` over rows.
///
/// # Errors
/// Shapes do not fit.
pub fn bias_grad(dy: &Tensor) -> Result<Tensor> {
    let _span = profile::whole(Group::Projections);
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = dy.device() {
        return super::cuda::linear::bias_grad(dy, cuda);
    }
    let groups = Groups::one(dy.dim(0)?, dy.device())?;
    Ok(grouped::bias_grad(dy, &groups)?.squeeze(0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{dot, finite_differences, random};

    #[test]
    fn gradients() {
        let (x, w, b) = (random(1, &[5, 7]), random(2, &[3, 7]), random(3, &[3]));
        let dy = random(4, &[5, 3]);
        let y = |x: &Tensor, w: &Tensor, b: &Tensor| dot(&forward(x, w, Some(b)).unwrap(), &dy);
        finite_differences(&x, &input_grad(&dy, &w).unwrap(), |x| y(x, &w, &b));
        finite_differences(&w, &weight_grad(&x, &dy).unwrap(), |w| y(&x, w, &b));
        finite_differences(&b, &bias_grad(&dy).unwrap(), |b| y(&x, &w, b));
    }
}
