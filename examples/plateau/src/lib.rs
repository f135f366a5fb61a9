//! A callback that stops a run whose evaluation loss no longer falls, and lets the model answer a few
//! prompts after each evaluation, so that one can read how it gets better.

use apus_sdk::{Callback, Control, Result, RunState, outln};
use serde_json::{Map, Value};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Plateau {
        /// Evaluations in a row without a better loss before the run stops.
        patience: u64 = 3,
        /// How much lower a loss must be to count as better.
        min_delta: f64 = 0.0,
        /// Answered and printed after each evaluation.
        prompts: Vec<String> = Vec::new(),
    }
    state {
        best: Option<f64>,
        without: u64,
    }
}

apus_sdk::register! {
    /// Stops after `patience` evaluations without a better loss; shows answers to `prompts` on the way.
    Callback, "plateau", Plateau
}

impl Callback for Plateau {
    fn on_evaluate(
        &mut self,
        metrics: &Map<String, Value>,
        _state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        control.generate.extend(self.prompts.iter().cloned());
        let Some(loss) = metrics.get("eval_loss").and_then(Value::as_f64) else {
            return Ok(());
        };
        if self.best.is_none_or(|best| loss < best - self.min_delta) {
            self.best = Some(loss);
            self.without = 0;
        } else {
            self.without += 1;
        }
        control.should_training_stop |= self.without >= self.patience;
        Ok(())
    }

    fn on_generate(
        &mut self,
        prompt: &str,
        answer: &str,
        state: &RunState,
        _control: &mut Control,
    ) -> Result<()> {
        if self.prompts.iter().any(|mine| mine == prompt) {
            outln!("step {}: {prompt}\n{answer}", state.global_step);
        }
        Ok(())
    }

    fn save_state(&self) -> Result<Value> {
        Ok(serde_json::to_value((self.best, self.without))?)
    }

    fn load_state(&mut self, saved: Value) -> Result<()> {
        (self.best, self.without) = serde_json::from_value(saved)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::Run;
    use serde_json::json;

    #[test]
    fn stops_after_patience_evaluations_and_asks_after_each() {
        let mut plateau = Plateau {
            patience: 2,
            min_delta: 0.1,
            prompts: vec!["Hello?".to_owned()],
            ..Plateau::default()
        };
        let played = Run::new(10)
            .eval_losses(&[2.0, 1.5, 1.45, 1.2, 1.15, 1.3, 0.5])
            .answer(|prompt| prompt.to_uppercase())
            .play(&mut plateau)
            .unwrap();
        assert_eq!(played.steps, 6);
        let answers = played.answers.iter().map(|(_, _, answer)| answer.as_str());
        assert_eq!(answers.collect::<Vec<_>>(), ["HELLO?"; 6]);
    }

    #[test]
    fn counters_go_on_after_a_resume() {
        let evaluate = |plateau: &mut Plateau, loss: f64| {
            let metrics = Map::from_iter([("eval_loss".to_owned(), json!(loss))]);
            let mut control = Control::default();
            let state = RunState::default();
            plateau.on_evaluate(&metrics, &state, &mut control).unwrap();
            control.should_training_stop
        };
        let (mut before, mut after) = (Plateau::default(), Plateau::default());
        for loss in [1.0, 2.0, 2.0] {
            assert!(!evaluate(&mut before, loss));
        }
        after.load_state(before.save_state().unwrap()).unwrap();
        assert!(evaluate(&mut after, 1.0));
    }
}
