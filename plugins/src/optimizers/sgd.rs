//! Stochastic gradient descent with momentum, as `torch.optim.SGD`.

use apus_sdk::{Optimizer, Param, Result, StepInfo, register};

apus_sdk::options! {
    struct Sgd {
        /// Decay of the sum of gradients that a step follows, 0 to below 1; 0 keeps none.
        momentum: f64 = 0.0,
        /// Whether a step looks ahead along the momentum (Nesterov).
        nesterov: bool = false,
        /// Share of a parameter that is added to its gradient, as torch does; biases and norms are
        /// spared.
        weight_decay: f64 = 0.0,
    }
    limits {
        momentum: 0.0..1.0,
        weight_decay: 0.0..,
    }
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
    /// Gradient descent, with momentum if it is set.
    Optimizer, "sgd", Sgd
}

apus_sdk::built_in! {
    Optimizer, "sgd",
    aliases: &["sgd"],
}
