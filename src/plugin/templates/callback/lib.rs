//! A callback: saves a checkpoint whenever an evaluation beats a bound and everything saved before.

use apus_sdk::serde_json::{Map, Value, json};
use apus_sdk::{Callback, Control, Result, RunState};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct SaveBelow {
        /// The eval_loss that has to be beaten before anything is saved.
        bound: f64 = 1.0,
    }
    state {
        best: Option<f64>,
    }
}

apus_sdk::register! {
    /// Saves whenever eval_loss is below a bound and lower than at the last such save.
    Callback, "{{component}}", SaveBelow
}

impl Callback for SaveBelow {
    fn on_evaluate(
        &mut self,
        metrics: &Map<String, Value>,
        _state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        let Some(loss) = metrics.get("eval_loss").and_then(Value::as_f64) else {
            return Ok(());
        };
        if loss < self.best.unwrap_or(self.bound) {
            self.best = Some(loss);
            control.should_save = true;
        }
        Ok(())
    }

    fn save_state(&self) -> Result<Value> {
        Ok(json!(self.best))
    }

    fn load_state(&mut self, saved: Value) -> Result<()> {
        self.best = apus_sdk::serde_json::from_value(saved)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::{Run, make};

    #[test]
    fn saves_below_the_bound_and_then_below_the_best() {
        let mut callback = make::<dyn Callback>("{{component}}", json!({"bound": 0.9})).unwrap();
        let mut run = Run::new(5).eval_losses(&[1.5, 0.8, 0.85, 0.7, 0.7]);
        let played = run.play(callback.as_mut()).unwrap();
        assert_eq!(played.saves, [2, 4]);
    }

    #[test]
    fn a_resumed_run_knows_the_best() {
        let mut before = SaveBelow::default();
        Run::new(1).eval_losses(&[0.5]).play(&mut before).unwrap();
        let mut after = SaveBelow::default();
        after.load_state(before.save_state().unwrap()).unwrap();
        let mut run = Run::new(2).eval_losses(&[0.6, 0.4]);
        assert_eq!(run.play(&mut after).unwrap().saves, [2]);
    }
}
