//! Lowers the learning rate when evaluations no longer get better, as `torch.optim.lr_scheduler.ReduceLROnPlateau`,
//! which `transformers` steps at each evaluation with `metric_for_best_model`.
//!
//! It is a callback, since it reacts to evaluations, and a schedule of the same name, the constant one that
//! it lowers: a configuration that names the schedule gets both.

use apus_sdk::{Callback, Control, Error, LrSchedule, Progress, Result, RunState, register};
use serde_json::{Map, Value, json};

apus_sdk::options! {
    struct ReduceLrOnPlateau {
        /// Factor on the learning rate at each reduction, below 1.
        factor: f64 = 0.1,
        /// Evaluations in a row without improvement that are borne; one more, and the rate falls.
        patience: u64 = 10,
        /// How much better counts as better.
        threshold: f64 = 1e-4,
        /// Whether threshold is a share of the best value (rel) or a difference to it (abs).
        threshold_mode: String = "rel".to_owned(),
        /// Evaluations after a reduction that are not counted.
        cooldown: u64 = 0,
        /// The learning rate never falls below this.
        min_lr: f64 = 0.0,
        /// Reductions by no more than this are left out.
        eps: f64 = 1e-8,
        /// Whether less (min) or more (max) is better; none is as greater_is_better says.
        mode: Option<String> = None,
    }
    limits {
        factor: 0.0..1.0,
        threshold: 0.0..,
        min_lr: 0.0..,
        eps: 0.0..,
    }
    state {
        best: Option<f64>,
        without: u64,
        cooling: u64,
        /// Product of all reductions; none before the first.
        reduced: Option<f64>,
    }
}

impl ReduceLrOnPlateau {
    fn check(&self) -> Result<()> {
        let one_of = |name: &str, value: &str, known: [&str; 2]| match known.contains(&value) {
            true => Ok(()),
            false => Err(Error::new(format!(
                "{name} is {value:?}, expected {} or {}",
                known[0], known[1]
            ))),
        };
        one_of("threshold_mode", &self.threshold_mode, ["rel", "abs"])?;
        one_of(
            "mode",
            self.mode.as_deref().unwrap_or("min"),
            ["min", "max"],
        )
    }

    fn is_better(&self, value: f64, more: bool) -> bool {
        let Some(best) = self.best else {
            return true;
        };
        let sign = if more { 1.0 } else { -1.0 };
        let bound = match self.threshold_mode.as_str() {
            "abs" => best + sign * self.threshold,
            _ => best * (1.0 + sign * self.threshold),
        };
        if more { value > bound } else { value < bound }
    }

    /// Takes in the metric of an evaluation.
    fn measured(&mut self, value: f64, state: &RunState, control: &mut Control) {
        let more = match self.mode.as_deref() {
            Some(mode) => mode == "max",
            None => state.greater_is_better,
        };
        if self.is_better(value, more) {
            self.best = Some(value);
            self.without = 0;
        } else {
            self.without += 1;
        }
        if self.cooling > 0 {
            self.cooling -= 1;
            self.without = 0;
        }
        if self.without > self.patience {
            self.reduce(state.learning_rate, control);
            self.cooling = self.cooldown;
            self.without = 0;
        }
    }

    fn reduce(&mut self, rate: f64, control: &mut Control) {
        let lower = (rate * self.factor).max(self.min_lr);
        if rate - lower > self.eps {
            let reduced = self.reduced.unwrap_or(1.0) * (lower / rate);
            self.reduced = Some(reduced);
            control.lr_factor = Some(reduced);
        }
    }
}

impl LrSchedule for ReduceLrOnPlateau {
    fn factor(&self, _progress: &Progress) -> Result<f64> {
        Ok(1.0)
    }
}

register! {
    /// Constant, until the callback of this name, which comes with it, lowers it: after evaluations that are no better.
    LrSchedule, "reduce_lr_on_plateau", ReduceLrOnPlateau
}

impl Callback for ReduceLrOnPlateau {
    fn on_init_end(&mut self, _state: &RunState, _control: &mut Control) -> Result<()> {
        self.check()
    }

    /// The metric is in the line of an evaluation, whose own it is or a callback's.
    fn on_log(
        &mut self,
        values: &mut Map<String, Value>,
        state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        let key = state.metric_for_best_model.as_str();
        let name = key.strip_prefix("eval_").unwrap_or(key);
        // Lines of steps have a `loss`, too, which is not meant.
        let of_a_callback = || Control::check_metric(name, &0.into()).is_ok();
        let value = match values.get(key) {
            None if of_a_callback() => values.get(name),
            value => value,
        };
        if let Some(value) = value.and_then(Value::as_f64) {
            self.measured(value, state, control);
        }
        Ok(())
    }

    fn save_state(&self) -> Result<Value> {
        Ok(json!({
            "best": self.best,
            "without": self.without,
            "cooling": self.cooling,
            "reduced": self.reduced,
        }))
    }

    fn load_state(&mut self, saved: Value) -> Result<()> {
        let strange = || Error::new(format!("cannot go on from {saved}"));
        let count = |name: &str| saved[name].as_u64().ok_or_else(strange);
        let number = |name: &str| match &saved[name] {
            Value::Null => Ok(None),
            value => value.as_f64().map(Some).ok_or_else(strange),
        };
        (self.without, self.cooling) = (count("without")?, count("cooling")?);
        (self.best, self.reduced) = (number("best")?, number("reduced")?);
        Ok(())
    }

    fn metric_names(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

register! {
    /// Lowers the learning rate after several evaluations without a better metric_for_best_model.
    Callback, "reduce_lr_on_plateau", ReduceLrOnPlateau
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing;

    const LR: f64 = 0.1;

    /// The learning rates after each of these values of the metric, from a rate of 0.1.
    fn rates(callback: &mut ReduceLrOnPlateau, values: &[f64]) -> Vec<f64> {
        let mut control = Control {
            lr_factor: callback.reduced,
            ..Control::default()
        };
        let rate = |control: &Control| LR * control.lr_factor.unwrap_or(1.0);
        let after = values.iter().map(|&value| {
            let state = RunState {
                learning_rate: rate(&control),
                metric_for_best_model: "eval_loss".to_owned(),
                ..RunState::default()
            };
            let mut line = Map::from_iter([("eval_loss".to_owned(), json!(value))]);
            callback.on_log(&mut line, &state, &mut control).unwrap();
            rate(&control)
        });
        after.collect()
    }

    #[track_caller]
    fn near(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 1e-12 * b.abs();
        assert!(found.iter().zip(expected).all(near), "{found:?}");
    }

    /// What torch 2 gives for the same values, worked out by its definition.
    #[test]
    fn falls_as_in_torch() {
        let plain = |patience| ReduceLrOnPlateau {
            patience,
            ..ReduceLrOnPlateau::default()
        };
        // The first value is the baseline; without patience the next one that is no better lowers the rate.
        near(
            &rates(&mut plain(0), &[1.0, 1.0, 2.0, 0.5]),
            &[0.1, 0.01, 0.001, 0.001],
        );
        // The third in a row, with a patience of two.
        let values = [1.0, 1.1, 1.2, 1.3, 1.4, 0.9];
        near(
            &rates(&mut plain(2), &values),
            &[0.1, 0.1, 0.1, 0.01, 0.01, 0.01],
        );
        // Better by less than the threshold is no better: a share of the best, or a difference to it.
        near(
            &rates(&mut plain(0), &[100.0, 99.995, 99.9]),
            &[0.1, 0.01, 0.01],
        );
        let mut abs = ReduceLrOnPlateau {
            threshold_mode: "abs".to_owned(),
            ..plain(0)
        };
        near(&rates(&mut abs, &[100.0, 99.995]), &[0.1, 0.1]);
        // While it cools down, nothing counts.
        let mut cooling = ReduceLrOnPlateau {
            cooldown: 2,
            ..plain(0)
        };
        near(
            &rates(&mut cooling, &[1.0; 6]),
            &[0.1, 0.01, 0.01, 0.01, 0.001, 0.001],
        );
        // Down to the least rate, and not by less than eps.
        let mut least = ReduceLrOnPlateau {
            min_lr: 0.005,
            ..plain(0)
        };
        near(&rates(&mut least, &[1.0; 4]), &[0.1, 0.01, 0.005, 0.005]);
        let mut eps = ReduceLrOnPlateau {
            eps: 0.05,
            ..plain(0)
        };
        near(&rates(&mut eps, &[1.0; 3]), &[0.1, 0.01, 0.01]);
        let mut max = ReduceLrOnPlateau {
            mode: Some("max".to_owned()),
            ..plain(0)
        };
        near(&rates(&mut max, &[1.0, 2.0, 2.0]), &[0.1, 0.1, 0.01]);
    }

    #[test]
    fn a_resumed_run_goes_on_counting() {
        let values = [3.0, 3.1, 3.2, 3.0, 2.9, 3.0, 3.0, 3.0, 3.0, 3.0];
        let new = || ReduceLrOnPlateau {
            patience: 1,
            cooldown: 1,
            ..ReduceLrOnPlateau::default()
        };
        let whole = rates(&mut new(), &values);
        for resumed_from in 0..values.len() {
            let mut before = new();
            rates(&mut before, &values[..resumed_from]);
            let mut after = new();
            after.load_state(before.save_state().unwrap()).unwrap();
            assert_eq!(
                rates(&mut after, &values[resumed_from..]),
                whole[resumed_from..]
            );
        }
        assert!(new().load_state(json!({"without": 1})).is_err());
    }

    #[test]
    fn the_metric_may_be_a_callbacks() {
        let mut callback = ReduceLrOnPlateau {
            patience: 0,
            ..ReduceLrOnPlateau::default()
        };
        let mut control = Control::default();
        let mut log = |metric: &str, line: Value| {
            let state = RunState {
                learning_rate: LR,
                metric_for_best_model: metric.to_owned(),
                greater_is_better: true,
                ..RunState::default()
            };
            let Value::Object(mut line) = line else {
                unreachable!()
            };
            callback.on_log(&mut line, &state, &mut control).unwrap();
            control.lr_factor
        };
        // The loss of a step is not that of an evaluation.
        assert_eq!(log("eval_loss", json!({"loss": 1.0})), None);
        assert_eq!(log("eval_loss", json!({"loss": 0.0})), None);
        assert_eq!(log("eval_score", json!({"score": 5.0})), None);
        assert_eq!(log("eval_score", json!({"loss": 5.0})), None);
        assert!(log("eval_score", json!({"score": 4.0})).is_some());
    }

    #[test]
    fn options_that_cannot_be_meant_are_refused() {
        let make = |options| {
            let mut callback = testing::make::<dyn Callback>("reduce_lr_on_plateau", options)?;
            callback.on_init_end(&RunState::default(), &mut Control::default())
        };
        make(json!({})).unwrap();
        for (options, says) in [
            (json!({"factor": 1.0}), "factor"),
            (json!({"min_lr": -1.0}), "min_lr"),
            (
                json!({"mode": "least"}),
                "mode is \"least\", expected min or max",
            ),
            (
                json!({"threshold_mode": "x"}),
                "threshold_mode is \"x\", expected rel or abs",
            ),
        ] {
            let error = make(options).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
