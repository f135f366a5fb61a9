//! Root-mean-square norm (Zhang & Sennrich, <https://arxiv.org/abs/1910.07467>): `y = w * x / sqrt(mean(x^2) + eps)`, in f32, with
//! the weight, cast at the end.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use crate::profile::{self, OpGroup};
use anyhow::Result;
use candle_core::Tensor;

/// Normalises rows: `x` `[T, H]`, `w` `[H]` to `[T, H]`.
pub fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Norms);
    on_device!(x.device(), forward(x, w, eps))
}

/// Returns `x + delta`, `[T, H]`, and its normed rows.
pub fn forward_sum(x: &Tensor, delta: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device() {
        return cuda::forward_sum(x, delta, w, eps, cuda);
    }
    let sum = (x + delta)?;
    let y = forward(&sum, w, eps)?;
    Ok((sum, y))
}

/// Returns the gradient by `x` plus `add`, the gradient by another path. With `g = dy * w` and `r = 1 / rms`,
/// `dx = r * (g - x * r^2 * mean(g * x))`.
pub fn backward(
    x: &Tensor,
    w: &Tensor,
    eps: f64,
    dy: &Tensor,
    add: Option<&Tensor>,
) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Norms);
    on_device!(x.device(), backward(x, w, eps, dy, add))
}

/// Returns the gradient by `w`, the sum over rows of `dy * x * r`, `[H]` f32.
pub fn weight_grad(x: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Norms);
    on_device!(x.device(), weight_grad(x, eps, dy))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, dot, finite_differences, random, values};

    const EPS: f64 = 1e-5;

    #[test]
    fn forward_by_the_formula() {
        let (x, w) = (random(1, &[3, 11]), random(2, &[11]));
        let expected: Vec<f64> = values(&x)
            .chunks(11)
            .flat_map(|row| {
                let rms = (row.iter().map(|x| x * x).sum::<f64>() / 11.0 + EPS).sqrt();
                row.iter()
                    .zip(values(&w))
                    .map(move |(x, w)| w * x / rms)
                    .collect::<Vec<_>>()
            })
            .collect();
        close(&forward(&x, &w, EPS).unwrap(), &expected, 1e-6);
    }

    #[test]
    fn gradients() {
        let (x, w, dy) = (random(1, &[3, 11]), random(2, &[11]), random(3, &[3, 11]));
        let dx = backward(&x, &w, EPS, &dy, None).unwrap();
        finite_differences(&x, &dx, |x| dot(&forward(x, &w, EPS).unwrap(), &dy));
        let dw = weight_grad(&x, EPS, &dy).unwrap();
        finite_differences(&w, &dw, |w| dot(&forward(&x, w, EPS).unwrap(), &dy));
    }
}
