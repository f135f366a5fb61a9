//! SwiGLU on interleaved gates and values, plain or clamped, as one operation with the experts' weighted sum that follows it.
//! As in torch, a value on a bound passes its gradient, one beyond it none.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
pub(super) use cuda::limit as kernel_limit;

use super::router::RoutePlan;
use crate::profile::{self, OpGroup};
use anyhow::Result;
use candle_core::{Device, Tensor};

/// What an MLP with a gate computes between its matrices, from a gate `g` and a value `u`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `u g sigmoid(g)` (Shazeer, <https://arxiv.org/abs/2002.05202>).
    Swiglu,
    /// `(u' + 1) g' sigmoid(alpha g')` with `g' = min(g, limit)` and `u' = clamp(u, -limit, limit)`.
    ClampedSwiglu {
        /// The factor inside the sigmoid.
        alpha: f32,
        /// The bound.
        limit: f32,
    },
}

/// Checks that a device computes an activation here.
///
/// # Errors
/// The device is a card, for which there is no kernel of it.
#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
pub fn check_device(activation: Activation, device: &Device) -> Result<()> {
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        cuda::limit(activation)?;
    }
    Ok(())
}

/// Takes `gate_up` `[N, 2 F]`, interleaved, to `[N, F]`.
pub fn forward(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Activation);
    on_device!(gate_up.device(), forward(gate_up, activation))
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
    activation: Activation,
    dh: &Tensor,
    routing: RoutingWeights,
) -> Result<(Tensor, Tensor)> {
    let _span = profile::span(OpGroup::Activation);
    on_device!(
        &gate_up.device().clone(),
        backward(gate_up, activation, dh, routing)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, finite_differences, random, values};

    fn clamped(limit: f32) -> Activation {
        let alpha = 1.702;
        Activation::ClampedSwiglu { alpha, limit }
    }

    #[test]
    fn forward_by_the_formula() {
        let x = (random(1, &[5, 14]) * 3.0).unwrap();
        let expected = |formula: fn(f64, f64) -> f64| -> Vec<f64> {
            let values = values(&x);
            values.chunks(2).map(|p| formula(p[0], p[1])).collect()
        };
        let by_hand = expected(|g, u| {
            let (g, u) = (g.min(2.0), u.clamp(-2.0, 2.0));
            (u + 1.0) * g / (1.0 + (-1.702 * g).exp())
        });
        close(&forward(&x, clamped(2.0)).unwrap(), &by_hand, 1e-6);
        let by_hand = expected(|g, u| u * g / (1.0 + (-g).exp()));
        close(&forward(&x, Activation::Swiglu).unwrap(), &by_hand, 1e-6);
    }

    #[test]
    fn gradient_inside_and_outside_the_clamps() {
        let x = random(1, &[5, 14]);
        // A limit away from every value, so that no difference straddles it.
        let near = |limit: f64| values(&x).iter().all(|v| (v.abs() - limit).abs() > 0.03);
        let limit = (50..90)
            .map(|i| f64::from(i) / 100.0)
            .find(|&l| near(l))
            .unwrap() as f32;
        assert!(values(&x).iter().any(|&v| v.abs() > f64::from(limit)));
        gradients(&x, clamped(limit));
    }

    #[test]
    fn gradient_without_clamps() {
        gradients(&random(1, &[5, 14]), Activation::Swiglu);
    }

    fn gradients(x: &Tensor, activation: Activation) {
        let dy = random(2, &[5, 7]);
        // Five rows: experts 0 to 4 of one token, as k = 5 choices.
        let ids = Tensor::new(&[[3u32, 0, 4, 1, 2]], x.device()).unwrap();
        let plan = RoutePlan::new(&ids, 5).unwrap();
        let (weights, by_bias) = (random(3, &[1, 5]), random(4, &[1, 5]));
        let sum = |x: &Tensor, weights: &Tensor| {
            let h = (forward(x, activation).unwrap() * &dy).unwrap();
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
        let (dx, dw) = backward(x.clone(), activation, &dy, routing).unwrap();
        finite_differences(x, &dx, |x| sum(x, &weights));
        finite_differences(&weights, &dw, |w| sum(x, w));
    }
}
