//! An optimizer that uses all that a host offers beside parameters: groups, state of its own, other weights to evaluate and to
//! save. It can fail, and kill its process, in any of its functions.

use apus_sdk::serde_json::Value;
use apus_sdk::{Need, Optimizer, OptimizerStep, Param, Result, StepInfo, register};
use std::process::{Command, id};
use std::thread::sleep;
use std::time::Duration;

apus_sdk::options! {
    struct Counts {
        /// Factor on the learning rate.
        factor: f64 = 1.0,
        /// The function that fails after the first step.
        fails: String = String::new(),
    }
    state {
        /// Steps that were made, from which the learning rate follows.
        steps: u64,
    }
}

register! {
    /// Descent with a learning rate that falls with the root of the step; its average is evaluated and saved.
    Optimizer, "counts", Counts
}

/// Where it kills its process: a function, a colon, the number of the last step.
const DIES: &str = "APUS_TEST_DIES";

impl Counts {
    fn in_function(&self, name: &str) -> Result<()> {
        if self.fails == name && self.steps > 0 {
            return Err("told to fail".into());
        }
        if std::env::var(DIES).is_ok_and(|at| at == format!("{name}:{}", self.steps)) {
            let killed = Command::new("kill")
                .args(["-9", &id().to_string()])
                .status();
            killed.map_err(|error| format!("kill: {error}"))?;
            sleep(Duration::from_secs(60));
        }
        Ok(())
    }
}

impl Optimizer for Counts {
    fn needs() -> &'static [Need] {
        &[Need::Groups, Need::State, Need::Hooks]
    }

    fn step(&mut self, _params: &mut [Param], _info: &StepInfo) -> Result<()> {
        Err("it declares groups, so that the host calls step_with".into())
    }

    fn step_with(&mut self, params: &mut [Param], step: &mut OptimizerStep) -> Result<()> {
        self.in_function("step_with")?;
        self.steps += 1;
        let share = 1.0 / self.steps as f64;
        for (at, param) in params.iter_mut().enumerate() {
            let factor = step.group(at)?.options().get("factor");
            let factor = factor.and_then(Value::as_f64).unwrap_or(self.factor);
            let change = param.grad.scale(param.lr * factor * share.sqrt())?;
            param.value.set(&param.value.sub(&change)?)?;
            let average = param.state.zeros_like("average", &param.value)?;
            average.set(&average.lerp(&param.value, share)?)?;
        }
        Ok(())
    }

    fn save_state(&self) -> Result<Value> {
        self.in_function("save_state")?;
        Ok(self.steps.into())
    }

    fn load_state(&mut self, saved: Value) -> Result<()> {
        self.steps = saved.as_u64().ok_or("expected a number of steps")?;
        self.in_function("load_state")
    }

    fn state_bytes(&self, _name: &str, shape: &[usize]) -> Result<Option<u64>> {
        self.in_function("state_bytes")?;
        // The average and, between two hooks, what is trained.
        Ok(Some(
            shape.iter().map(|&side| side as u64).product::<u64>() * 8,
        ))
    }

    fn before_evaluation(&mut self, params: &mut [Param]) -> Result<()> {
        self.in_function("before_evaluation")?;
        for param in params {
            let average = param.state.get("average").ok_or("there is no average")?;
            let trained = param.value.affine(1.0, 0.0)?;
            param.value.set(average)?;
            param.state.insert("trained", trained);
        }
        Ok(())
    }

    fn after_evaluation(&mut self, params: &mut [Param]) -> Result<()> {
        self.in_function("after_evaluation")?;
        for param in params {
            let trained = param.state.remove("trained").ok_or("nothing was kept")?;
            param.value.set(&trained)?;
        }
        Ok(())
    }

    fn before_saving(&mut self, params: &mut [Param]) -> Result<()> {
        self.in_function("before_saving")?;
        self.before_evaluation(params)
    }

    fn after_saving(&mut self, params: &mut [Param]) -> Result<()> {
        self.in_function("after_saving")?;
        self.after_evaluation(params)
    }
}
