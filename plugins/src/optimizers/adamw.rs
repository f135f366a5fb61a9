//! AdamW (Loshchilov & Hutter, <https://arxiv.org/abs/1711.05101>) with torch's order of operations.

use apus_sdk::{AdamW as Hyper, Optimizer, Param, Result, StepInfo, register};

apus_sdk::options! {
    struct AdamW {
        /// Decay of the mean of gradients, 0 to below 1.
        beta1: f64 = 0.9,
        /// Decay of the mean of squared gradients, 0 to below 1; 0.95 as ms-swift, 0.999 in torch.
        beta2: f64 = 0.95,
        /// Added to the root of the mean of squared gradients, above 0.
        eps: f64 = 1e-8,
        /// Share of a parameter, times its learning rate, that goes at each step; biases and norms are
        /// spared.
        weight_decay: f64 = 0.1,
    }
    limits {
        beta1: 0.0..1.0,
        beta2: 0.0..1.0,
        eps: f64::MIN_POSITIVE..,
        weight_decay: 0.0..,
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
    /// Adam with decoupled weight decay.
    Optimizer, "adamw", AdamW
}

// A paged optimizer of transformers computes the same numbers.
apus_sdk::built_in! {
    Optimizer, "adamw",
    aliases: &[
        "adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused", "paged_adamw", "paged_adamw_32bit",
    ],
}
