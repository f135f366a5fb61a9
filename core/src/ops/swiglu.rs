//! The clamped gated unit of gpt-oss (`transformers.GptOssExperts`): with `g` and `u` interleaved,
//! `gate = min(g, limit)`, `up = clamp(u, -limit, limit)`, `y = (up + 1) * gate * sigmoid(1.702 gate)`.
//! As in torch, a value on a bound passes its gradient, one beyond it none.

use super::host;
use super::wide::{exp, wide};
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Slope inside the sigmoid.
pub const ALPHA: f32 = 1.702;

/// `gate_up` `[N, 2 F]`, interleaved, to `[N, F]`.
///
/// # Errors
/// Shapes do not fit.
pub fn forward(gate_up: &Tensor, limit: f32) -> Result<Tensor> {
    let (n, f2) = gate_up.dims2()?;
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = gate_up.device() {
        return super::cuda::swiglu::forward(gate_up, limit, cuda);
    }
    host::with(gate_up, |gate_up: &[f32]| {
        let mut y = vec![0f32; n * f2 / 2];
        y.par_chunks_mut((f2 / 2).max(1))
            .zip(gate_up.par_chunks(f2))
            .for_each(|(y, pairs)| forward_row(y, pairs, limit));
        Ok(host::f32s(y, (n, f2 / 2)))
    })
}

/// Gradient by `gate_up` from `dy` `[N, F]`.
///
/// # Errors
/// Shapes do not fit.
pub fn backward(gate_up: &Tensor, limit: f32, dy: &Tensor) -> Result<Tensor> {
    let (n, f2) = gate_up.dims2()?;
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = gate_up.device() {
        return super::cuda::swiglu::backward(gate_up, limit, dy, cuda);
    }
    host::with2(gate_up, dy, |gate_up, dy| {
        let mut out = vec![0f32; n * f2];
        let rows = gate_up.par_chunks(f2).zip(dy.par_chunks((f2 / 2).max(1)));
        out.par_chunks_mut(f2)
            .zip(rows)
            .for_each(|(out, (pairs, dy))| backward_row(out, pairs, dy, limit));
        Ok(host::f32s(out, (n, f2)))
    })
}

wide! {
    fn forward_row(y: &mut [f32], pairs: &[f32], limit: f32) {
        for (y, pair) in y.iter_mut().zip(pairs.as_chunks::<2>().0) {
            let (gate, up) = (pair[0].min(limit), pair[1].clamp(-limit, limit));
            *y = (up + 1.0) * gate * sigmoid(ALPHA * gate);
        }
    }
}

wide! {
    fn backward_row(out: &mut [f32], pairs: &[f32], dy: &[f32], limit: f32) {
        let pairs = out.as_chunks_mut::<2>().0.iter_mut().zip(pairs.as_chunks::<2>().0);
        for ((out, pair), d) in pairs.zip(dy) {
            let (gate, up) = (pair[0].min(limit), pair[1].clamp(-limit, limit));
            let s = sigmoid(ALPHA * gate);
            let slope = s * (1.0 + ALPHA * gate * (1.0 - s));
            let by_gate = d * (up + 1.0) * slope;
            let by_up = d * gate * s;
            *out = [
                if pair[0] <= limit { by_gate } else { 0.0 },
                if pair[1].abs() <= limit { by_up } else { 0.0 },
            ];
        }
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, dot, finite_differences, random, values};

    #[test]
    fn forward_by_the_formula() {
        let x = (random(1, &[5, 14]) * 3.0).unwrap();
        let expected: Vec<f64> = values(&x)
            .chunks(2)
            .map(|p| {
                let (g, u) = (p[0].min(2.0), p[1].clamp(-2.0, 2.0));
                (u + 1.0) * g / (1.0 + (-1.702 * g).exp())
            })
            .collect();
        close(&forward(&x, 2.0).unwrap(), &expected, 1e-6);
    }

    #[test]
    fn gradient_inside_and_outside_the_clamps() {
        let (x, dy) = (random(1, &[5, 14]), random(2, &[5, 7]));
        // A limit away from every value, so that no difference straddles it.
        let near = |limit: f64| values(&x).iter().all(|v| (v.abs() - limit).abs() > 0.03);
        let limit = (50..90)
            .map(|i| f64::from(i) / 100.0)
            .find(|&l| near(l))
            .unwrap() as f32;
        assert!(values(&x).iter().any(|&v| v.abs() > f64::from(limit)));
        let dx = backward(&x, limit, &dy).unwrap();
        finite_differences(&x, &dx, |x| dot(&forward(x, limit).unwrap(), &dy));
    }
}
