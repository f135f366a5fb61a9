//! One AdamW update in place (Loshchilov & Hutter, <https://arxiv.org/abs/1711.05101>), in the order
//! of `torch.optim.AdamW`: decay, moments, then the step with bias-corrected moments.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use anyhow::{Result, ensure};
use apus_sdk::AdamW;
use candle_core::{DType, Tensor};

/// Updates parameter `p` and moments `m`, `v` from gradient `g`; all f32 and of one shape.
pub fn step(p: &Tensor, g: &Tensor, m: &Tensor, v: &Tensor, hyper: &AdamW) -> Result<()> {
    for (name, tensor) in [("gradient", g), ("first moment", m), ("second moment", v)] {
        ensure!(
            tensor.dims() == p.dims() && tensor.dtype() == DType::F32 && p.dtype() == DType::F32,
            "adamw: the {name} is {:?} {:?}, the parameter {:?} {:?}; all must be F32 of one shape",
            tensor.dtype(),
            tensor.dims(),
            p.dtype(),
            p.dims()
        );
    }
    let g = g.contiguous()?;
    on_device!(p.device(), step(p, &g, m, v, hyper))
}

/// The constants of a step, as f32.
#[derive(Debug, Clone, Copy)]
pub struct StepConstants {
    /// The decay of the first moment.
    pub beta1: f32,
    /// The decay of the second moment.
    pub beta2: f32,
    /// `1 - lr * weight_decay`.
    pub keep: f32,
    /// `lr / (1 - beta1^t)`.
    pub step_size: f32,
    /// `sqrt(1 - beta2^t)`.
    pub root_correction: f32,
    /// The epsilon.
    pub eps: f32,
}

impl StepConstants {
    /// Computes them in f64.
    pub fn new(hyper: &AdamW) -> Self {
        let t = hyper.step as f64;
        Self {
            beta1: hyper.beta1 as f32,
            beta2: hyper.beta2 as f32,
            keep: (1.0 - hyper.lr * hyper.weight_decay) as f32,
            step_size: (hyper.lr / (1.0 - hyper.beta1.powf(t))) as f32,
            root_correction: (1.0 - hyper.beta2.powf(t)).sqrt() as f32,
            eps: hyper.eps as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, random, values};

    #[test]
    fn three_steps_by_the_formula() {
        let (p, m, v) = (
            random(1, &[37]),
            random(2, &[37]),
            random(3, &[37]).sqr().unwrap(),
        );
        let (mut ep, mut em, mut ev) = (values(&p), values(&m), values(&v));
        let (lr, b1, b2, eps, wd) = (0.1, 0.9, 0.99, 1e-8, 0.05);
        for t in 1..=3 {
            let g = random(10 + t, &[37]);
            let hyper = AdamW {
                lr,
                beta1: b1,
                beta2: b2,
                eps,
                weight_decay: wd,
                step: t,
            };
            step(&p, &g, &m, &v, &hyper).unwrap();
            for (i, g) in values(&g).into_iter().enumerate() {
                em[i] = b1 * em[i] + (1.0 - b1) * g;
                ev[i] = b2 * ev[i] + (1.0 - b2) * g * g;
                let mean = em[i] / (1.0 - b1.powi(t as i32));
                let var = ev[i] / (1.0 - b2.powi(t as i32));
                ep[i] = ep[i] * (1.0 - lr * wd) - lr * mean / (var.sqrt() + eps);
            }
        }
        close(&p, &ep, 1e-5);
        close(&m, &em, 1e-5);
        close(&v, &ev, 1e-5);
    }
}
