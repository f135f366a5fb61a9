//! A linear layer, `y = x w^T + b`, and its gradients.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
pub(super) use cuda::add_bias_in_place;

use crate::profile::{self, OpGroup};
use anyhow::Result;
use candle_core::Tensor;

/// Takes `x` `[T, I]`, with `w` `[O, I]` and `bias` `[O]`, to `[T, O]`.
pub fn forward(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let _span = profile::whole(OpGroup::Projections);
    let y = product(x, w)?;
    let Some(bias) = bias else { return Ok(y) };
    on_device!(&y.device().clone(), add_bias(y, bias))
}

/// Computes `x w^T`. A product with few outputs, such as a router's, has a kernel that reads `x` once.
fn product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device()
        && x.dtype() == candle_core::DType::BF16
        && super::lora::cuda::fits(w.dim(0)?, w.dim(1)?)
    {
        return super::lora::cuda::narrow(x, w, cuda);
    }
    cpu::product(x, w)
}

/// Returns the gradient by `x`, `dy w`.
pub fn input_grad(dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    let _span = profile::whole(OpGroup::Projections);
    Ok(dy.matmul(w)?)
}

/// Returns the gradient by `w`, `dy^T x`, `[O, I]` f32.
pub fn weight_grad(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let _span = profile::whole(OpGroup::Projections);
    on_device!(x.device(), weight_grad(x, dy))
}

/// Returns the gradient by the bias, the sum of `dy` over rows, `[O]` f32.
pub fn bias_grad(dy: &Tensor) -> Result<Tensor> {
    let _span = profile::whole(OpGroup::Projections);
    on_device!(dy.device(), bias_grad(dy))
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
