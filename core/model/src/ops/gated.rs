//! The activation of a dense MLP, gates and values side by side in a row, as its two projections give them. Composed of tensor
//! operations, in f32, so that it is the same on every device; that of experts is fused (`swiglu`).

use super::swiglu::Activation;
use crate::profile::{self, OpGroup};
use anyhow::Result;
use candle_core::{DType, Tensor};

/// Takes `gate_up` `[T, 2 F]`, gates first, to `[T, F]`.
pub fn forward(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Activation);
    let [gate, up] = halves(gate_up)?;
    let h = match activation {
        Activation::Swiglu => (gate.silu()? * up)?,
        Activation::ClampedSwiglu { alpha, limit } => {
            let (gate, up) = (gate.minimum(limit)?, up.clamp(-limit, limit)?);
            ((up + 1.0)? * (&gate * sigmoid(&(&gate * f64::from(alpha))?)?)?)?
        }
    };
    Ok(h.to_dtype(gate_up.dtype())?)
}

/// Returns the gradient by `gate_up` from that by the activation, `dh` `[T, F]`.
pub fn backward(gate_up: &Tensor, activation: Activation, dh: &Tensor) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Activation);
    let [gate, up] = halves(gate_up)?;
    let dh = dh.to_dtype(DType::F32)?;
    let [dgate, dup] = match activation {
        Activation::Swiglu => {
            let by_gate = (&dh * up)?;
            [
                (by_gate * slope(&gate, 1.0)?)?,
                (dh * (&gate * sigmoid(&gate)?)?)?,
            ]
        }
        Activation::ClampedSwiglu { alpha, limit } => {
            let inside = |passes: Tensor| passes.to_dtype(DType::F32);
            let (low, alpha) = (gate.minimum(limit)?, f64::from(alpha));
            let by_gate = (&dh * (up.clamp(-limit, limit)? + 1.0)?)?;
            let by_up = (dh * (&low * sigmoid(&(&low * alpha)?)?)?)?;
            [
                ((by_gate * slope(&low, alpha)?)? * inside(gate.le(limit)?)?)?,
                (by_up * inside(up.abs()?.le(limit)?)?)?,
            ]
        }
    };
    Ok(Tensor::cat(&[dgate, dup], 1)?.to_dtype(gate_up.dtype())?)
}

/// Gates and values, f32.
fn halves(gate_up: &Tensor) -> Result<[Tensor; 2]> {
    let (_, width) = gate_up.dims2()?;
    let half = |start| -> Result<Tensor> {
        let part = gate_up.narrow(1, start, width / 2)?.contiguous()?;
        Ok(part.to_dtype(DType::F32)?)
    };
    Ok([half(0)?, half(width / 2)?])
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    Ok((x.neg()?.exp()? + 1.0)?.recip()?)
}

/// The derivative of `g sigmoid(alpha g)`.
fn slope(gate: &Tensor, alpha: f64) -> Result<Tensor> {
    let scaled = (gate * alpha)?;
    let s = sigmoid(&scaled)?;
    let rest = s.affine(-1.0, 1.0)?;
    Ok((s * ((scaled * rest)? + 1.0)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::swiglu;
    use crate::ops::testing::{close, dot, finite_differences, random, values};

    /// Both activations, the clamped one with a limit that some values are beyond and none is near.
    fn activations(x: &Tensor) -> [Activation; 2] {
        let near = |limit: f64| values(x).iter().all(|v| (v.abs() - limit).abs() > 0.03);
        let limits = (50..90).map(|i| f64::from(i) / 100.0);
        let limit = limits.into_iter().find(|&limit| near(limit)).unwrap() as f32;
        assert!(values(x).iter().any(|&v| v.abs() > f64::from(limit)));
        let alpha = 1.702;
        [
            Activation::Swiglu,
            Activation::ClampedSwiglu { alpha, limit },
        ]
    }

    #[test]
    fn it_is_the_activation_of_experts_in_another_order() {
        let x = random(1, &[5, 14]);
        let pairs = x.reshape((5, 2, 7)).unwrap().transpose(1, 2).unwrap();
        let pairs = pairs.contiguous().unwrap().reshape((5, 14)).unwrap();
        for activation in activations(&x) {
            let expected = swiglu::forward(&pairs, activation).unwrap();
            close(&forward(&x, activation).unwrap(), &values(&expected), 1e-6);
        }
    }

    #[test]
    fn forward_by_the_formula() {
        let x = random(1, &[5, 14]);
        let mut expected = Vec::new();
        for row in values(&x).chunks(14) {
            let (gates, ups) = row.split_at(7);
            let pairs = gates.iter().zip(ups);
            expected.extend(pairs.map(|(g, u)| g / (1.0 + (-g).exp()) * u));
        }
        let found = forward(&x, Activation::Swiglu).unwrap();
        close(&found, &expected, 1e-6);
    }

    #[test]
    fn gradients() {
        let (x, dh) = (random(1, &[5, 14]), random(2, &[5, 7]));
        for activation in activations(&x) {
            let dx = backward(&x, activation, &dh).unwrap();
            finite_differences(&x, &dx, |x| dot(&forward(x, activation).unwrap(), &dh));
        }
    }
}
