//! Stops a run that no longer gets better, as ms-swift's `early_stop` callback (4.x).

use apus_sdk::{Callback, Control, Result, RunState, register};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct EarlyStop {
    interval: u64,
    #[serde(skip)]
    best: Option<f64>,
    #[serde(skip)]
    without: u64,
}

impl Default for EarlyStop {
    fn default() -> Self {
        Self {
            interval: 3,
            best: None,
            without: 0,
        }
    }
}

impl Callback for EarlyStop {
    fn on_save(
        &mut self,
        _checkpoint: &Path,
        state: &RunState,
        control: &mut Control,
    ) -> Result<()> {
        let Some(now) = state.best_metric else {
            return Ok(());
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
        control.should_training_stop |= self.without >= self.interval;
        Ok(())
    }
}

register! {
    /// Stops after `interval` saves in a row without a better metric_for_best_model.
    Callback, "early_stop", EarlyStop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_after_interval_saves_without_improvement() {
        let mut callback = EarlyStop {
            interval: 2,
            ..Default::default()
        };
        let mut stops = Vec::new();
        for best in [3.0, 2.0, 2.0, 1.5, 1.5, 1.5] {
            let state = RunState {
                best_metric: Some(best),
                ..Default::default()
            };
            let mut control = Control::default();
            callback
                .on_save(Path::new("c"), &state, &mut control)
                .unwrap();
            stops.push(control.should_training_stop);
        }
        assert_eq!(stops, [false, false, false, false, false, true]);
    }
}
