//! What `examples/adafactor` is, written with SDK 1.0.

use apus_sdk::{Optimizer, Param, Result, State, StepInfo, Tensor};

apus_sdk::options! {
    struct Adafactor {
        /// Added to squared gradients.
        eps: f64 = 1e-30,
        /// Root mean square above which an update is scaled down.
        clip_threshold: f64 = 1.0,
        /// The second moment forgets with the share step ^ -decay_rate.
        decay_rate: f64 = 0.8,
        /// Decoupled weight decay; biases and norms are spared.
        weight_decay: f64 = 0.0,
    }
}

apus_sdk::register! {
    /// Second moments by rows and columns: a state of almost nothing.
    Optimizer, "old_adafactor", Adafactor
}

impl Optimizer for Adafactor {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        for (name, value) in [
            ("eps", self.eps),
            ("clip_threshold", self.clip_threshold),
            ("decay_rate", self.decay_rate),
            ("weight_decay", self.weight_decay),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(format!("{name} is {value}").into());
            }
        }
        let fresh = (info.step as f64).powf(-self.decay_rate);
        for param in params {
            let square = param.grad.sqr()?.affine(1.0, self.eps)?;
            let update = match param.value.shape() {
                [_, _] => {
                    let row = average(param.state, "exp_avg_sq_row", &square.mean(1)?, fresh)?;
                    let column = average(param.state, "exp_avg_sq_col", &square.mean(0)?, fresh)?;
                    let row = row.div(&row.mean(0)?)?.sqrt()?;
                    param.grad.div(&row)?.div(&column.sqrt()?)?
                }
                _ => {
                    let all = average(param.state, "exp_avg_sq", &square, fresh)?;
                    param.grad.div(&all.sqrt()?)?
                }
            };
            let size = update.sqr()?.mean_all()?.sqrt()?;
            let excess = size.affine(1.0 / self.clip_threshold, 0.0)?;
            let update = update.div(&excess.clamp(1.0, f64::from(f32::MAX))?)?;
            let decay = if param.decay { self.weight_decay } else { 0.0 };
            let kept = param.value.affine(1.0 - param.lr * decay, 0.0)?;
            param
                .value
                .set(&kept.sub(&update.affine(param.lr, 0.0)?)?)?;
        }
        Ok(())
    }
}

/// The running mean under this name, after `new` came in with this share. The first has a share of 1.
fn average(state: &mut State, name: &str, new: &Tensor, share: f64) -> Result<Tensor> {
    let mean = state.zeros_like(name, new)?;
    mean.set(
        &mean
            .affine(1.0 - share, 0.0)?
            .add(&new.affine(share, 0.0)?)?,
    )?;
    Ok(mean)
}
