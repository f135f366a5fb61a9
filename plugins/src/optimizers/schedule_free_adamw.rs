//! Schedule-free AdamW (Defazio et al., <https://arxiv.org/abs/2405.15682>), with the order of operations of the package
//! `schedulefree`: gradients are taken at `y`, between the iterates `z` and their average `x`, and `x` is what is evaluated and
//! saved. No schedule is needed (`--lr_scheduler_type constant`).

use apus_sdk::{DType, Need, Optimizer, Param, Result, StepInfo, Tensor, register};

apus_sdk::options! {
    struct ScheduleFreeAdamW {
        /// How near to the average gradients are taken, above 0 and below 1.
        beta1: f64 = 0.9,
        /// Decay of the mean of squared gradients, 0 to below 1.
        beta2: f64 = 0.999,
        /// Added to the root of the mean of squared gradients, above 0.
        eps: f64 = 1e-8,
        /// Share of a parameter, times its learning rate, that goes at each step; biases and norms are
        /// spared.
        weight_decay: f64 = 0.1,
        /// Steps in which the learning rate grows to its value, beside those of a schedule.
        warmup_steps: u64 = 0,
        /// A step counts in the average with its number to this power.
        r: f64 = 0.0,
        /// A step counts in the average with the greatest learning rate so far to this power.
        weight_lr_power: f64 = 2.0,
    }
    limits {
        beta1: f64::MIN_POSITIVE..1.0,
        beta2: 0.0..1.0,
        eps: f64::MIN_POSITIVE..,
        weight_decay: 0.0..,
        r: 0.0..,
        weight_lr_power: 0.0..,
    }
}

register! {
    /// AdamW whose averaged weights are evaluated and saved, without a schedule.
    Optimizer, "schedule_free_adamw", ScheduleFreeAdamW
}

apus_sdk::built_in! {
    Optimizer, "schedule_free_adamw",
    gives_way: true,
    aliases: &["schedule_free_adamw"],
}

/// The weights that are trained, while others are evaluated or saved.
const TRAINED: &str = "trained";

impl Optimizer for ScheduleFreeAdamW {
    fn needs() -> &'static [Need] {
        &[Need::Hooks]
    }

    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        let correction = 1.0 - self.beta2.powf(info.step as f64);
        let warm = match self.warmup_steps {
            0 => 1.0,
            steps => (info.step as f64 / steps as f64).min(1.0),
        };
        for param in params {
            let (y, lr) = (&param.value, param.lr * warm);
            let z = match param.state.get("z") {
                Some(z) => z.clone(),
                None => {
                    let z = y.affine(1.0, 0.0)?;
                    param.state.insert("z", z.clone());
                    z
                }
            };
            let v = param.state.zeros_like("exp_avg_sq", y)?;
            let square = param.grad.sqr()?.affine(1.0 - self.beta2, 0.0)?;
            v.set(&v.affine(self.beta2, 0.0)?.add(&square)?)?;
            let root = v.affine(1.0 / correction, 0.0)?.sqrt()?;
            let mut update = param.grad.div(&root.affine(1.0, self.eps)?)?;
            if param.decay && self.weight_decay != 0.0 {
                update = update.add(&y.affine(self.weight_decay, 0.0)?)?;
            }
            let share = self.share(param, lr, info)?;
            let y = &param.value;
            let drawn = y.add(&z.sub(y)?.mul(&share)?)?;
            let factor = share.affine(-lr * self.beta1, lr * (self.beta1 - 1.0))?;
            y.set(&drawn.add(&update.mul(&factor)?)?)?;
            z.set(&z.sub(&update.affine(lr, 0.0)?)?)?;
        }
        Ok(())
    }

    fn before_evaluation(&mut self, params: &mut [Param]) -> Result<()> {
        for param in params {
            let Some(z) = param.state.get("z") else {
                continue;
            };
            let trained = param.value.affine(1.0, 0.0)?;
            let to_average = z.sub(&trained)?.affine(1.0 - 1.0 / self.beta1, 0.0)?;
            param.value.set(&trained.add(&to_average)?)?;
            param.state.insert(TRAINED, trained);
        }
        Ok(())
    }

    fn after_evaluation(&mut self, params: &mut [Param]) -> Result<()> {
        for param in params {
            if let Some(trained) = param.state.remove(TRAINED) {
                param.value.set(&trained)?;
            }
        }
        Ok(())
    }
}

impl ScheduleFreeAdamW {
    /// The share of this step in the average. It stays on the device: waiting for it would hold up every parameter.
    fn share(&self, param: &mut Param, lr: f64, info: &StepInfo) -> Result<Tensor> {
        let none = param.value.new_zeros(&[], DType::F32)?;
        let greatest = param.state.zeros_like("lr_max", &none)?;
        greatest.set(&greatest.clamp(lr, f64::INFINITY)?)?;
        let number = (info.step as f64).powf(self.r);
        let weight = match self.weight_lr_power == 0.0 {
            true => none.affine(0.0, number)?,
            false => greatest.powf(self.weight_lr_power)?.affine(number, 0.0)?,
        };
        let sum = param.state.zeros_like("weight_sum", &none)?;
        sum.set(&sum.add(&weight)?)?;
        weight.div(&sum.clamp(f64::from(f32::MIN_POSITIVE), f64::INFINITY)?)
    }
}
