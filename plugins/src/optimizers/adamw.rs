//! AdamW (Loshchilov & Hutter, <https://arxiv.org/abs/1711.05101>) with torch's order of operations.

use apus_sdk::{AdamW as Hyper, Optimizer, Param, Result, StepInfo, register};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AdamW {
    beta1: f64,
    beta2: f64,
    eps: f64,
    weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
        }
    }
}

impl Optimizer for AdamW {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        for param in params {
            let m = param.state.zeros_like("exp_avg", &param.value)?;
            let v = param.state.zeros_like("exp_avg_sq", &param.value)?;
            let hyper = Hyper {
                lr: param.lr,
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.eps,
                weight_decay: if param.decay { self.weight_decay } else { 0.0 },
                step: info.step,
            };
            param.value.adamw(&param.grad, &m, &v, &hyper)?;
        }
        Ok(())
    }
}

register! {
    /// Adam with decoupled weight decay; options beta1, beta2, eps, weight_decay.
    Optimizer, "adamw", AdamW
}
