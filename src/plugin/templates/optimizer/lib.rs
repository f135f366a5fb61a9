//! An optimizer: gradient descent with momentum (Polyak, 1964).

use apus_sdk::{Optimizer, Param, Result, StepInfo};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Momentum {
        /// Share of the last step's direction that the next one keeps, 0 to below 1.
        momentum: f64 = 0.9,
    }
}

apus_sdk::register! {
    /// Gradient descent with momentum.
    Optimizer, "{{component}}", Momentum
}

impl Optimizer for Momentum {
    fn step(&mut self, params: &mut [Param], _info: &StepInfo) -> Result<()> {
        for param in params {
            // What is kept in `state` is in every checkpoint, and there again in a resumed run.
            let direction = param.state.zeros_like("direction", &param.value)?;
            direction.set(&((&direction * self.momentum)? + &param.grad)?)?;
            param.value.set(&(&param.value - &direction * param.lr)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{make, minimise};

    /// How far 100 steps are from the bottom of a bowl, before and after.
    fn walk(momentum: f64) -> (f64, f64) {
        let options = json!({"momentum": momentum});
        let mut optimizer = make::<dyn Optimizer>("{{component}}", options).unwrap();
        let (start, target) = ([3.0, -2.0], [1.0, 1.0]);
        let values = minimise(optimizer.as_mut(), &start, &target, &[2], 0.01, 100).unwrap();
        (values[0], values[100])
    }

    #[test]
    fn it_gets_down() {
        let (before, after) = walk(0.9);
        assert!(after < 0.01 * before, "{before}, {after}");
    }

    #[test]
    fn momentum_hurries() {
        let ((_, with), (_, without)) = (walk(0.9), walk(0.0));
        assert!(with < 0.1 * without, "{with}, {without}");
    }
}
