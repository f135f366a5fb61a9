//! Adafactor (Shazeer and Stern, 2018, <https://arxiv.org/abs/1804.04235>) with a learning rate from outside: the second
//! moment of a matrix is the product of the means of its rows and columns.
//!
//! What it keeps has other shapes than the parameter: `[rows, 1]` and `[1, columns]` of a matrix.

use apus_sdk::{Optimizer, Param, Result, State, StepInfo, Tensor};

apus_sdk::export_plugin!();

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
    limits {
        eps: f64::MIN_POSITIVE..,
        clip_threshold: f64::MIN_POSITIVE..,
        decay_rate: f64::MIN_POSITIVE..=1.0,
        weight_decay: 0.0..,
    }
}

apus_sdk::register! {
    /// Second moments by rows and columns: a state of almost nothing.
    Optimizer, "adafactor", Adafactor
}

impl Optimizer for Adafactor {
    fn step(&mut self, params: &mut [Param], info: &StepInfo) -> Result<()> {
        let fresh = (info.step as f64).powf(-self.decay_rate);
        for param in params {
            let square = (param.grad.sqr()? + self.eps)?;
            let second = if let [_, _] = param.value.shape() {
                let row = average(param.state, "exp_avg_sq_row", &square.mean(1)?, fresh)?;
                let column = average(param.state, "exp_avg_sq_col", &square.mean(0)?, fresh)?;
                (&row / row.mean(0)? * column)?
            } else {
                average(param.state, "exp_avg_sq", &square, fresh)?
            };
            let update = (&param.grad / second.sqrt()?)?;
            let excess = (update.sqr()?.mean_all()?.sqrt()? / self.clip_threshold)?;
            let update = (update / excess.clamp(1.0, f64::from(f32::MAX))?)?;
            let decay = if param.decay { self.weight_decay } else { 0.0 };
            let kept = (&param.value * (1.0 - param.lr * decay))?;
            param.value.set(&(kept - (update * param.lr)?)?)?;
        }
        Ok(())
    }
}

/// The running mean under this name, after `new` came in with this share. The first has a share of 1.
fn average(state: &mut State, name: &str, new: &Tensor, share: f64) -> Result<Tensor> {
    let mean = state.zeros_like(name, new)?;
    mean.set(&mean.lerp(new, share)?)?;
    Ok(mean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::{minimise, tensor};

    #[test]
    fn two_steps_by_hand() {
        let (value, mut state) = (tensor(&[1.0, 2.0, 3.0, 4.0], &[2, 2]), State::default());
        let mut optimizer = Adafactor {
            clip_threshold: 100.0,
            ..Adafactor::default()
        };
        let grads = [[1.0, 2.0, 2.0, 4.0], [3.0, 1.0, 1.0, 3.0]];
        for (step, grad) in (1..).zip(&grads) {
            let param = Param {
                name: "w",
                value: value.clone(),
                grad: tensor(grad, &[2, 2]),
                lr: 0.1,
                decay: true,
                state: &mut state,
            };
            optimizer.step(&mut [param], &StepInfo { step }).unwrap();
        }
        // After the first step, rows are 2.5 and 10, columns 2.5 and 10: every update is 1. The second mixes in rows of 5
        // and columns of 5 with the share 2^-0.8.
        let share = 2f64.powf(-0.8);
        let mixed = [2.5, 10.0].map(|old: f64| old * (1.0 - share) + 5.0 * share);
        let mean = (mixed[0] + mixed[1]) / 2.0;
        let expected =
            [(0, 0, 1.0), (0, 1, 2.0), (1, 0, 3.0), (1, 1, 4.0)].map(|(row, column, start)| {
                let second = (mixed[row] / mean * mixed[column]).sqrt();
                start - 0.1 - 0.1 * f64::from(grads[1][2 * row + column]) / second
            });
        for (found, expected) in value.to_vec::<f32>().unwrap().into_iter().zip(expected) {
            assert!(
                (f64::from(found) - expected).abs() < 1e-5,
                "{found} {expected}"
            );
        }
        let shape = |name| state.get(name).unwrap().shape().to_vec();
        assert_eq!(shape("exp_avg_sq_row"), [2, 1]);
        assert_eq!(shape("exp_avg_sq_col"), [1, 2]);
    }

    #[test]
    fn large_updates_are_scaled_down() {
        let (value, mut state) = (tensor(&[0.0; 4], &[4]), State::default());
        let param = Param {
            name: "b",
            value: value.clone(),
            grad: tensor(&[1.0, -1.0, 1e3, -1e3], &[4]),
            lr: 1.0,
            decay: false,
            state: &mut state,
        };
        let mut optimizer = Adafactor {
            clip_threshold: 0.5,
            ..Adafactor::default()
        };
        optimizer.step(&mut [param], &StepInfo { step: 1 }).unwrap();
        assert_eq!(value.to_vec::<f32>().unwrap(), [-0.5, 0.5, -0.5, 0.5]);
    }

    #[test]
    fn matrices_and_vectors_reach_their_target() {
        for shape in [&[2, 2][..], &[4]] {
            let (start, target) = ([1.0, -1.0, 0.5, 2.0], [0.0; 4]);
            let losses = minimise(&mut Adafactor::default(), &start, &target, shape, 0.02, 200);
            let losses = losses.unwrap();
            assert!(losses[200] < 0.01 * losses[0], "{shape:?}: {losses:?}");
        }
    }
}
