//! One task for each row.

use super::{Activation, RoutingWeights};
use crate::ops::host;
use crate::ops::simd::{exp, simd};
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// The activation.
pub fn forward(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    let (n, f2) = gate_up.dims2()?;
    host::with(gate_up, |gate_up: &[f32]| {
        let mut y = vec![0f32; n * f2 / 2];
        y.par_chunks_mut((f2 / 2).max(1))
            .zip(gate_up.par_chunks(f2))
            .for_each(|(y, pairs)| activation.forward_row(y, pairs));
        Ok(host::f32s(y, (n, f2 / 2)))
    })
}

/// Gradients by `gate_up` and by the weights.
pub fn backward(
    gate_up: Tensor,
    activation: Activation,
    dh: &Tensor,
    routing: RoutingWeights,
) -> Result<(Tensor, Tensor)> {
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
                activation.forward_row(&mut h, pairs);
                *dot = h.iter().zip(dh).map(|(h, d)| h * d).sum();
                h.iter_mut()
                    .zip(dh)
                    .for_each(|(h, d)| *h = weights[pair as usize] * d);
                activation.backward_row(out, pairs, &h);
            });
        Ok((host::f32s(out, (n, f2)), dots))
    })?;
    for (&pair, dot) in order.iter().zip(dots) {
        dweights[pair as usize] += dot;
    }
    Ok((out, host::f32s(dweights, weights.shape())))
}

impl Activation {
    fn forward_row(self, y: &mut [f32], pairs: &[f32]) {
        match self {
            Self::Swiglu => swiglu_row(y, pairs),
            Self::ClampedSwiglu { alpha, limit } => clamped_row(y, pairs, alpha, limit),
        }
    }

    /// The gradients by the pairs from those by the activation.
    fn backward_row(self, out: &mut [f32], pairs: &[f32], dy: &[f32]) {
        match self {
            Self::Swiglu => swiglu_row_backward(out, pairs, dy),
            Self::ClampedSwiglu { alpha, limit } => {
                clamped_row_backward(out, pairs, dy, alpha, limit);
            }
        }
    }
}

simd! {
    fn swiglu_row(y: &mut [f32], pairs: &[f32]) {
        for (y, [gate, up]) in y.iter_mut().zip(pairs.as_chunks::<2>().0) {
            *y = up * gate * sigmoid(*gate);
        }
    }
}

simd! {
    fn swiglu_row_backward(out: &mut [f32], pairs: &[f32], dy: &[f32]) {
        let pairs = out.as_chunks_mut::<2>().0.iter_mut().zip(pairs.as_chunks::<2>().0);
        for ((out, [gate, up]), d) in pairs.zip(dy) {
            let s = sigmoid(*gate);
            *out = [d * up * s * (1.0 + gate * (1.0 - s)), d * gate * s];
        }
    }
}

simd! {
    fn clamped_row(y: &mut [f32], pairs: &[f32], alpha: f32, limit: f32) {
        for (y, pair) in y.iter_mut().zip(pairs.as_chunks::<2>().0) {
            let (gate, up) = (pair[0].min(limit), pair[1].clamp(-limit, limit));
            *y = (up + 1.0) * gate * sigmoid(alpha * gate);
        }
    }
}

simd! {
    fn clamped_row_backward(out: &mut [f32], pairs: &[f32], dy: &[f32], alpha: f32, limit: f32) {
        let pairs = out.as_chunks_mut::<2>().0.iter_mut().zip(pairs.as_chunks::<2>().0);
        for ((out, pair), d) in pairs.zip(dy) {
            let (gate, up) = (pair[0].min(limit), pair[1].clamp(-limit, limit));
            let s = sigmoid(alpha * gate);
            let slope = s * (1.0 + alpha * gate * (1.0 - s));
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
