//! Lion (Chen et al., <https://arxiv.org/abs/2302.06675>).

use apus_sdk::{Optimizer, Param, Result, StepInfo, register};

apus_sdk::options! {
    struct Lion {
        /// Share of the momentum, against the gradient, in what the step takes the sign of; 0 to 1.
        beta1: f64 = 0.9,
        /// Decay of the momentum, 0 to below 1.
        beta2: f64 = 0.99,
        /// Share of a parameter, times its learning rate, that goes at each step; biases and norms are
        /// spared.
        weight_decay: f64 = 0.1,
    }
    limits {
        beta1: 0.0..=1.0,
        beta2: 0.0..1.0,
        weight_decay: 0.0..,
    }
}

impl Optimizer for Lion {
    fn step(&mut self, params: &mut [Param], _info: &StepInfo) -> Result<()> {
        for param in params {
            let m = param.state.zeros_like("exp_avg", &param.value)?;
            let blend = |beta: f64| {
                m.affine(beta, 0.0)?
                    .add(&param.grad.affine(1.0 - beta, 0.0)?)
            };
            let update = blend(self.beta1)?.sign()?.affine(-param.lr, 0.0)?;
            let decay = if param.decay {
                1.0 - param.lr * self.weight_decay
            } else {
                1.0
            };
            param
                .value
                .set(&param.value.affine(decay, 0.0)?.add(&update)?)?;
            m.set(&blend(self.beta2)?)?;
        }
        Ok(())
    }
}

register! {
    /// Sign of a momentum, half the memory of AdamW.
    Optimizer, "lion", Lion
}

apus_sdk::built_in! {
    Optimizer, "lion",
    aliases: &["lion", "lion_32bit", "paged_lion_32bit"],
}
