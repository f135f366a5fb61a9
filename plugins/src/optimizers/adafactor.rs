//! Adafactor (Shazeer & Stern, <https://arxiv.org/abs/1804.04235>) with a learning rate from outside, in the order of
//! operations of transformers: the second moment of a matrix is the product of the means of its rows and columns.

use apus_sdk::{Optimizer, Param, Result, State, StepInfo, Tensor, register};

apus_sdk::options! {
    struct Adafactor {
        /// Added to squared gradients, above 0.
        eps: f64 = 1e-30,
        /// Root mean square above which an update is scaled down, above 0.
        clip_threshold: f64 = 1.0,
        /// The second moment forgets with the share step ^ -decay_rate, above 0 and up to 1.
        decay_rate: f64 = 0.8,
        /// Decay of the mean of updates, 0 to below 1; without it none is kept.
        beta1: Option<f64> = None,
        /// Whether a learning rate is a share of the root mean square of its parameter.
        scale_parameter: bool = false,
        /// The least that this root mean square counts as, above 0.
        eps_scale: f64 = 1e-3,
        /// Share of a parameter, times its learning rate, that goes at each step; biases and norms are
        /// spared.
        weight_decay: f64 = 0.0,
    }
    limits {
        eps: f64::MIN_POSITIVE..,
        clip_threshold: f64::MIN_POSITIVE..,
        decay_rate: f64::MIN_POSITIVE..=1.0,
        beta1: 0.0..1.0,
        eps_scale: f64::MIN_POSITIVE..,
        weight_decay: 0.0..,
    }
}

register! {
    /// Second moments by rows and columns: a state of almost nothing.
    Optimizer, "adafactor", Adafactor
}

apus_sdk::built_in! {
    Optimizer, "adafactor",
    gives_way: true,
    aliases: &["adafactor"],
}

impl Optimizer for Adafactor {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        let fresh = (info.step as f64).powf(-self.decay_rate);
        for param in params {
            let update = self.update(param, fresh)?;
            let size = root_mean_square(&update)?.affine(1.0 / self.clip_threshold, 0.0)?;
            let update = update.div(&size.clamp(1.0, f64::INFINITY)?)?;
            let rate = match self.scale_parameter {
                true => root_mean_square(&param.value)?.clamp(self.eps_scale, f64::INFINITY)?,
                false => param.value.new_full(&[], 1.0, param.value.dtype())?,
            };
            let rate = rate.affine(param.lr, 0.0)?;
            let mut update = update.mul(&rate)?;
            if let Some(beta1) = self.beta1 {
                update = average(param.state, "exp_avg", &update, 1.0 - beta1)?;
            }
            let decay = if param.decay { self.weight_decay } else { 0.0 };
            let kept = param.value.mul(&rate.affine(-decay, 1.0)?)?;
            param.value.set(&kept.sub(&update)?)?;
        }
        Ok(())
    }
}

impl Adafactor {
    /// The gradient over the root of the second moment, into which the new squares came with the share `fresh`.
    fn update(&self, param: &mut Param, fresh: f64) -> Result<Tensor> {
        let square = param.grad.sqr()?.affine(1.0, self.eps)?;
        let dimensions = param.value.shape().len();
        if dimensions < 2 {
            let all = average(param.state, "exp_avg_sq", &square, fresh)?;
            return param.grad.div(&all.sqrt()?);
        }
        let (rows, columns) = (dimensions - 2, dimensions - 1);
        let row = average(param.state, "exp_avg_sq_row", &square.mean(columns)?, fresh)?;
        let column = average(param.state, "exp_avg_sq_col", &square.mean(rows)?, fresh)?;
        let row = row.div(&row.mean(rows)?)?.sqrt()?;
        param.grad.div(&row)?.div(&column.sqrt()?)
    }
}

fn root_mean_square(of: &Tensor) -> Result<Tensor> {
    of.sqr()?.mean_all()?.sqrt()
}

/// The running mean under this name, after `new` came in with this share. The first has a share of 1.
fn average(state: &mut State, name: &str, new: &Tensor, share: f64) -> Result<Tensor> {
    let mean = state.zeros_like(name, new)?;
    let fresh = new.affine(share, 0.0)?;
    mean.set(&mean.affine(1.0 - share, 0.0)?.add(&fresh)?)?;
    Ok(mean)
}
