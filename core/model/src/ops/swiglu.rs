//! The clamped gated unit of gpt-oss (`transformers.GptOssExperts`): with `g` and `u` interleaved,
//! `gate = min(g, limit)`, `up = clamp(u, -limit, limit)`, `y = (up + 1) * gate * sigmoid(1.702 gate)`.
//! As in torch, a value on a bound passes its gradient, one beyond it none.

use super::host;
use super::router::RoutePlan;
use super::simd::{exp, simd};
use crate::profile::{self, OpGroup};
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// The factor inside the sigmoid.
pub const ALPHA: f32 = 1.702;

/// Takes `gate_up` `[N, 2 F]`, interleaved, to `[N, F]`.
pub fn forward(gate_up: &Tensor, limit: f32) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Activation);
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

/// The weights of the experts' outputs in the sum of each token.
#[derive(Debug, Clone, Copy)]
pub struct RoutingWeights<'a> {
    /// The weights, `[T, k]` f32.
    pub weights: &'a Tensor,
    /// The token and the expert of each row.
    pub plan: &'a RoutePlan,
    /// Gradient of the sum by each expert's bias, times that bias: `dout bias^T`, `[T, E]`.
    pub by_bias: &'a Tensor,
}

/// Runs backward through the activation and the weighted sum of experts that follows it.
///
/// `dh` `[N, F]` is the gradient by the activation of each expert's row, before the row's weight `w` in the sum. Returns
/// the gradient by `gate_up`, in its memory, and that by the weights, `[T, k]` f32: since an expert's output is
/// `y = h W + b`, `<dout, y> = <dout W^T, h> + <dout, b> = <dh, h> + by_bias`, and `y` need not be kept.
pub fn backward(
    gate_up: Tensor,
    limit: f32,
    dh: &Tensor,
    routing: RoutingWeights,
) -> Result<(Tensor, Tensor)> {
    let _span = profile::span(OpGroup::Activation);
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = gate_up.device().clone() {
        return super::cuda::swiglu::backward(gate_up, limit, dh, routing, &cuda);
    }
    let (n, f2) = gate_up.dims2()?;
    let RoutingWeights {
        weights,
        plan,
        by_bias,
    } = routing;
    let order = plan.order.to_vec1::<u32>()?;
    let by_bias = by_bias.gather(&plan.ids, 1)?.flatten_all()?;
    let mut dweights = by_bias.to_vec1::<f32>()?;
    let (out, dots) = host::with3(&gate_up, dh, weights, |gate_up, dh, weights| {
        let mut out = vec![0f32; n * f2];
        let mut dots = vec![0f32; n];
        let rows = gate_up.par_chunks(f2).zip(dh.par_chunks((f2 / 2).max(1)));
        out.par_chunks_mut(f2)
            .zip(&mut dots)
            .zip(rows.zip(&order))
            .for_each(|((out, dot), ((pairs, dh), &pair))| {
                let mut h = vec![0f32; dh.len()];
                forward_row(&mut h, pairs, limit);
                *dot = h.iter().zip(dh).map(|(h, d)| h * d).sum();
                h.iter_mut()
                    .zip(dh)
                    .for_each(|(h, d)| *h = weights[pair as usize] * d);
                backward_row(out, pairs, &h, limit);
            });
        Ok((host::f32s(out, (n, f2)), dots))
    })?;
    for (&pair, dot) in order.iter().zip(dots) {
        dweights[pair as usize] += dot;
    }
    Ok((out, host::f32s(dweights, weights.shape())))
}

simd! {
    fn forward_row(y: &mut [f32], pairs: &[f32], limit: f32) {
        for (y, pair) in y.iter_mut().zip(pairs.as_chunks::<2>().0) {
            let (gate, up) = (pair[0].min(limit), pair[1].clamp(-limit, limit));
            *y = (up + 1.0) * gate * sigmoid(ALPHA * gate);
        }
    }
}

simd! {
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
    use crate::ops::testing::{close, finite_differences, random, values};

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
        // Five rows: experts 0 to 4 of one token, as k = 5 choices.
        let ids = Tensor::new(&[[3u32, 0, 4, 1, 2]], x.device()).unwrap();
        let plan = RoutePlan::new(&ids, 5).unwrap();
        let (weights, by_bias) = (random(3, &[1, 5]), random(4, &[1, 5]));
        let sum = |x: &Tensor, weights: &Tensor| {
            let h = (forward(x, limit).unwrap() * &dy).unwrap();
            let rows = h.sum(1).unwrap();
            let inverse = plan.inverse.to_vec1::<u32>().unwrap();
            let (rows, bias) = (values(&rows), values(&by_bias));
            let each = values(weights).into_iter().enumerate();
            each.map(|(pair, w)| {
                let expert = inverse[pair] as usize;
                w * (rows[expert] + bias[expert])
            })
            .sum::<f64>()
        };
        let routing = RoutingWeights {
            weights: &weights,
            plan: &plan,
            by_bias: &by_bias,
        };
        let (dx, dw) = backward(x.clone(), limit, &dy, routing).unwrap();
        finite_differences(&x, &dx, |x| sum(x, &weights));
        finite_differences(&weights, &dw, |w| sum(&x, w));
    }
}
