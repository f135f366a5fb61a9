//! Stops a run that no longer gets better, as ms-swift's `early_stop` callback (4.x).
//!
//! Its counters go into checkpoints. A checkpoint is written before `on_save`, so it does not count
//! itself yet: a resumed run counts the save that it resumes from when it begins. One that was stopped by that
//! save stops there again, unless its interval is a longer one now.

use apus_sdk::built_in::OptionFlag;
use apus_sdk::{Callback, Control, Error, Options, Result, RunState, register};
use serde_json::{Value, json};
use std::path::Path;

apus_sdk::options! {
    struct EarlyStop {
        /// Saves in a row without a better metric_for_best_model after which the run stops.
        interval: u64 = 3,
    }
    limits {
        interval: 1.0..,
    }
    state {
        best: Option<f64>,
        without: u64,
        resumed: bool,
    }
}

impl EarlyStop {
    /// Counts a save; true if the run should stop.
    fn count(&mut self, state: &RunState) -> bool {
        let Some(now) = state.best_metric else {
            return false;
        };
        let improved = match self.best {
            None => true,
            Some(best) if state.greater_is_better => now > best,
            Some(best) => now < best,
        };
        if improved {
            self.best = Some(now);
            self.without = 0;
        } else {
            self.without += 1;
        }
        self.without >= self.interval
    }
}

impl Callback for EarlyStop {
    fn on_train_begin(&mut self, state: &RunState, control: &mut Control) -> Result<()> {
        if std::mem::take(&mut self.resumed) {
            control.should_training_stop |= self.count(state);
        }
        Ok(())
    }

    fn on_save(
        &mut self,
        _checkpoint: &Path,
        state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        control.should_training_stop |= self.count(state);
        Ok(())
    }

    fn save_state(&self) -> Result<Value> {
        Ok(json!({"best": self.best, "without": self.without}))
    }

    fn load_state(&mut self, saved: Value) -> Result<()> {
        let strange = || Error::new(format!("cannot go on from {saved}"));
        self.without = saved["without"].as_u64().ok_or_else(strange)?;
        self.best = match &saved["best"] {
            Value::Null => None,
            best => Some(best.as_f64().ok_or_else(strange)?),
        };
        self.resumed = true;
        Ok(())
    }

    fn metric_names(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

register! {
    /// Stops after several saves in a row without a better metric_for_best_model.
    Callback, "early_stop", EarlyStop
}

apus_sdk::built_in! {
    Callback, "early_stop",
    flags: &[
        OptionFlag::new("early_stop_interval", "interval", "Stop after this many saves without a better metric")
            .beside("same; an error where nothing is evaluated, or with `save_strategy best`, which it would never stop")
            .at_least(1.0),
    ],
    after: "callbacks",
    joined_by: &["early_stop_interval"],
    needs_evaluations: true,
    check: check,
}

/// Refuses to wait for what never comes.
fn check(values: &Options) -> Result<()> {
    let is_given = values
        .get("early_stop_interval")
        .is_some_and(|interval| !interval.is_null());
    match is_given
        && values
            .get("save_strategy")
            .is_some_and(|strategy| strategy == "best")
    {
        true => Err(Error::new(
            "early_stop_interval counts checkpoints without a better metric, and save_strategy best saves none \
             of them; save by steps or epoch",
        )),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patient(interval: u64) -> EarlyStop {
        EarlyStop {
            interval,
            ..Default::default()
        }
    }

    fn at(best: f64) -> RunState {
        RunState {
            best_metric: Some(best),
            ..Default::default()
        }
    }

    /// Whether it stops at a save with this best metric.
    fn stops(callback: &mut EarlyStop, best: f64) -> bool {
        let mut control = Control::default();
        callback
            .on_save(Path::new("c"), &at(best), &mut control)
            .unwrap();
        control.should_training_stop
    }

    #[test]
    fn stops_after_interval_saves_without_improvement() {
        let mut callback = patient(2);
        assert_eq!(
            [3.0, 2.0, 2.0, 1.5, 1.5, 1.5].map(|best| stops(&mut callback, best)),
            [false, false, false, false, false, true]
        );
    }

    #[test]
    fn a_resumed_run_goes_on_counting() {
        let best = [3.0, 2.0, 2.0, 2.0, 2.0];
        let mut callback = patient(3);
        let whole = best.map(|best| stops(&mut callback, best));
        assert_eq!(whole, [false, false, false, false, true]);
        for resumed_from in 0..4 {
            let mut callback = patient(3);
            for best in &best[..resumed_from] {
                stops(&mut callback, *best);
            }
            let saved = callback.save_state().unwrap();
            let mut callback = patient(3);
            callback.load_state(saved).unwrap();
            let (state, mut control) = (at(best[resumed_from]), Control::default());
            callback.on_train_begin(&state, &mut control).unwrap();
            assert!(!control.should_training_stop);
            for i in resumed_from + 1..5 {
                let stopped = stops(&mut callback, best[i]);
                assert_eq!(stopped, whole[i], "resumed from {resumed_from}, at {i}");
            }
        }
    }

    #[test]
    fn a_run_that_was_stopped_stops_again_unless_its_interval_grew() {
        let mut callback = patient(1);
        assert!(!stops(&mut callback, 2.0));
        let saved = callback.save_state().unwrap();
        assert!(stops(&mut callback, 2.0));
        for (interval, again) in [(1, true), (2, false)] {
            let mut callback = patient(interval);
            callback.load_state(saved.clone()).unwrap();
            let mut control = Control::default();
            callback.on_train_begin(&at(2.0), &mut control).unwrap();
            assert_eq!(control.should_training_stop, again);
        }
    }

    #[test]
    fn a_strange_state_is_refused() {
        let error = patient(1).load_state(json!({"best": 1.0})).unwrap_err();
        assert!(error.to_string().contains("cannot go on from"), "{error}");
    }
}
