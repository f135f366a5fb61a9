//! What is done after a step, each at most once for its weights.

use super::settings::{Every, Settings};
use super::steps::Steps;
use std::ops::BitOrAssign;

/// Log, evaluate, save.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Due {
    /// Write a line of the log.
    pub log: bool,
    /// Evaluate.
    pub evaluate: bool,
    /// Save a checkpoint.
    pub save: bool,
}

impl Due {
    /// What the intervals of the settings ask for after the first `step` of these steps.
    pub fn by_interval(settings: &Settings, step: u64, steps: &Steps) -> Self {
        Self {
            log: Every::Steps(settings.logging_steps).due(step, steps)
                || (step == 1 && settings.logging_first_step),
            evaluate: settings.evaluate.due(step, steps),
            save: settings.save.due(step, steps),
        }
    }

    /// What is done after the last step, whether all steps were made or a callback has ended the run.
    pub fn at_the_end(settings: &Settings) -> Self {
        Self {
            log: true,
            evaluate: settings.evaluate != Every::Never,
            save: !matches!(settings.save, Every::Never | Every::Better),
        }
    }
}

impl BitOrAssign for Due {
    fn bitor_assign(&mut self, other: Self) {
        self.log |= other.log;
        self.evaluate |= other.evaluate;
        self.save |= other.save;
    }
}
