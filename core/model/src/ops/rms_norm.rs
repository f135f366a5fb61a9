//! Root-mean-square norm (Zhang & Sennrich, <https://arxiv.org/abs/1910.07467>), as
//! `transformers.GptOssRMSNorm`: `y = w * x / sqrt(mean(x^2) + eps)`, in f32, cast at the end.

use super::host;
use crate::profile::{self, OpGroup};
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Normalises rows: `x` `[T, H]`, `w` `[H]` to `[T, H]`.
pub fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let (t, h) = x.dims2()?;
    let _span = profile::span(OpGroup::Norms);
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device() {
        return super::cuda::rms_norm::forward(x, w, eps, cuda);
    }
    host::with2(x, w, |x, w| {
        let mut y = vec![0f32; t * h];
        y.par_chunks_mut(h).zip(x.par_chunks(h)).for_each(|(y, x)| {
            let r = inverse_rms(x, eps);
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                *y = w * (x * r);
            }
        });
        Ok(host::f32s(y, (t, h)))
    })
}

/// Returns `x + delta`, `[T, H]`, and its normed rows.
pub fn forward_sum(x: &Tensor, delta: &Tensor, w: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device() {
        return super::cuda::rms_norm::forward_sum(x, delta, w, eps, cuda);
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
    let (t, h) = x.dims2()?;
    let _span = profile::span(OpGroup::Norms);
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device() {
        return super::cuda::rms_norm::backward(x, w, eps, dy, add, cuda);
    }
    let dx = host::with3(x, w, dy, |x, w, dy| {
        let mut dx = vec![0f32; t * h];
        let rows = x.par_chunks(h).zip(dy.par_chunks(h));
        dx.par_chunks_mut(h).zip(rows).for_each(|(dx, (x, dy))| {
            let r = inverse_rms(x, eps);
            let projection: f32 = x
                .iter()
                .zip(dy)
                .zip(w)
                .map(|((&x, &d), &w)| x * d * w)
                .sum();
            let pull = projection / h as f32 * r * r;
            for (((dx, &x), &d), &w) in dx.iter_mut().zip(x).zip(dy).zip(w) {
                *dx = r * (d * w - x * pull);
            }
        });
        Ok(host::f32s(dx, (t, h)))
    })?;
    match add {
        Some(add) => Ok((dx + add)?),
        None => Ok(dx),
    }
}

/// Returns the gradient by `w`, the sum over rows of `dy * x * r`, `[H]` f32.
pub fn weight_grad(x: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    let (_, h) = x.dims2()?;
    let _span = profile::span(OpGroup::Norms);
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device() {
        return super::cuda::rms_norm::weight_grad(x, eps, dy, cuda);
    }
    host::with2(x, dy, |x, dy| {
        let mut dw = vec![0f32; h];
        for (x, dy) in x.chunks(h).zip(dy.chunks(h)) {
            let r = inverse_rms(x, eps);
            for ((dw, &x), &d) in dw.iter_mut().zip(x).zip(dy) {
                *dw += d * x * r;
            }
        }
        Ok(host::f32s(dw, h))
    })
}

fn inverse_rms(x: &[f32], eps: f64) -> f32 {
    let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    1.0 / (mean + eps as f32).sqrt()
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
