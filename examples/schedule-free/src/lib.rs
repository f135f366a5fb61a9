//! Schedule-free gradient descent (Defazio et al., 2024, <https://arxiv.org/abs/2405.15682>): gradients are taken at `y`, between
//! the iterates `z` and their average `x`. `y` is what is trained; `x` is what is evaluated and saved.

use apus_sdk::{DType, Need, Optimizer, Param, Result, State, StepInfo, Tensor};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct ScheduleFree {
        /// How near to the average gradients are taken.
        beta: f64 = 0.9,
        /// Share of a parameter, times its learning rate, that goes at each step.
        weight_decay: f64 = 0.0,
    }
    limits {
        beta: 0.0..=1.0,
        weight_decay: 0.0..,
    }
}

apus_sdk::register! {
    /// Gradient descent whose averaged weights are evaluated and saved, without a schedule.
    Optimizer, "schedule_free", ScheduleFree
}

impl Optimizer for ScheduleFree {
    fn needs() -> &'static [Need] {
        &[Need::Hooks]
    }

    fn step(&mut self, params: &mut [Param], _info: &StepInfo) -> Result<()> {
        for param in params {
            let (y, lr) = (&param.value, param.lr);
            let (z, x) = (kept(param.state, "z", y)?, kept(param.state, "x", y)?);
            // The share of this step in the average: its learning rate squared, of those of all steps so far.
            let sum = param
                .state
                .zeros_like("sum", &y.new_zeros(&[], DType::F32)?)?;
            sum.set(&sum.affine(1.0, lr * lr)?)?;
            let share = sum.clamp(f64::from(f32::MIN_POSITIVE), f64::INFINITY)?;
            let share = share.recip()?.scale(lr * lr)?;
            let decay = if param.decay { self.weight_decay } else { 0.0 };
            z.set(&z.sub(&param.grad.add(&y.scale(decay)?)?.scale(lr)?)?)?;
            x.set(&x.add(&z.sub(&x)?.mul(&share)?)?)?;
            y.set(&z.lerp(&x, self.beta)?)?;
        }
        Ok(())
    }

    fn before_evaluation(&mut self, params: &mut [Param]) -> Result<()> {
        for param in params {
            if let Some(x) = param.state.get("x") {
                param.value.set(x)?;
            }
        }
        Ok(())
    }

    fn after_evaluation(&mut self, params: &mut [Param]) -> Result<()> {
        for param in params {
            if let (Some(z), Some(x)) = (param.state.get("z"), param.state.get("x")) {
                param.value.set(&z.lerp(x, self.beta)?)?;
            }
        }
        Ok(())
    }
}

/// The tensor of this name, which begins as a copy of `start`.
fn kept(state: &mut State, name: &str, start: &Tensor) -> Result<Tensor> {
    if state.get(name).is_none() {
        state.insert(name, start.affine(1.0, 0.0)?);
    }
    state.zeros_like(name, start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{Bowl, make};

    const RATES: [f64; 6] = [0.0, 0.1, 0.2, 0.4, 0.4, 0.3];

    /// `y` and `x` after steps at these rates on the bowl around 0, by the paper's formula in f64.
    fn by_formula(beta: f64, start: f64, curvature: f64, rates: &[f64]) -> (f64, f64) {
        let (mut z, mut x, mut sum) = (start, start, 0.0);
        for rate in rates {
            let y = (1.0 - beta) * z + beta * x;
            z -= rate * curvature * y;
            sum += rate * rate;
            let c = if sum > 0.0 { rate * rate / sum } else { 0.0 };
            x = (1.0 - c) * x + c * z;
        }
        ((1.0 - beta) * z + beta * x, x)
    }

    #[test]
    fn steps_and_averages_are_those_of_the_formula() {
        let (start, curvature) = ([1.0f32, -2.0, 0.5], [1.0f32, 2.0, 0.1]);
        for beta in [0.0, 0.5, 0.9, 1.0] {
            let mut optimizer =
                make::<dyn Optimizer>("schedule_free", json!({"beta": beta})).unwrap();
            let bowl = Bowl::new(&start, &[0.0; 3], &[3]).unwrap();
            let mut bowl = bowl.with_curvature(&curvature).unwrap();
            for (made, rate) in (1..).zip(RATES) {
                bowl.step(&mut *optimizer, rate).unwrap();
                let (y, x) = (bowl.at().unwrap(), bowl.evaluated(&mut *optimizer).unwrap());
                for i in 0..3 {
                    let (start, curvature) = (f64::from(start[i]), f64::from(curvature[i]));
                    let expected = by_formula(beta, start, curvature, &RATES[..made]);
                    let gaps = [f64::from(y[i]) - expected.0, f64::from(x[i]) - expected.1];
                    assert!(
                        gaps.iter().all(|gap| gap.abs() < 1e-6),
                        "{beta} {made}: {gaps:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn another_instance_goes_on_from_a_checkpoint() {
        let [mut one, mut two] = [(); 2].map(|()| ScheduleFree::default());
        let [mut whole, mut cut] = [(); 2].map(|()| Bowl::new(&[1.0; 2], &[0.0; 2], &[2]).unwrap());
        for (made, rate) in (1..).zip(RATES) {
            whole.step(&mut one, rate).unwrap();
            cut.step(&mut two, rate).unwrap();
            let saved = cut.go_on(&mut two, &mut ScheduleFree::default()).unwrap();
            assert_eq!(saved, whole.evaluated(&mut one).unwrap(), "step {made}");
            assert_eq!(cut.at(), whole.at());
        }
    }
}
