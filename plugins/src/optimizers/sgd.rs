//! Stochastic gradient descent with momentum, as `torch.optim.SGD`.

use apus_sdk::{Optimizer, Param, Result, StepInfo, register};
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Sgd {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
}

impl Optimizer for Sgd {
    fn step(&mut self, params: &mut [Param], _info: &StepInfo) -> Result<()> {
        for param in params {
            let mut grad = param.grad.clone();
            if param.decay && self.weight_decay != 0.0 {
                grad = grad.add(&param.value.affine(self.weight_decay, 0.0)?)?;
            }
            if self.momentum != 0.0 {
                let buffer = param.state.zeros_like("momentum_buffer", &param.value)?;
                buffer.set(&buffer.affine(self.momentum, 0.0)?.add(&grad)?)?;
                grad = if self.nesterov {
                    grad.add(&buffer.affine(self.momentum, 0.0)?)?
                } else {
                    buffer
                };
            }
            param
                .value
                .set(&param.value.add(&grad.affine(-param.lr, 0.0)?)?)?;
        }
        Ok(())
    }
}

register! {
    /// Gradient descent; options momentum, nesterov, weight_decay (added to the gradient, as torch does).
    Optimizer, "sgd", Sgd
}
