//! A power of the remaining share.

use super::{done, warming};
use apus_sdk::{Error, LrSchedule, Progress, Result, register};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Polynomial {
    lr_end: f64,
    power: f64,
}

impl Default for Polynomial {
    fn default() -> Self {
        Self {
            lr_end: 1e-7,
            power: 1.0,
        }
    }
}

impl LrSchedule for Polynomial {
    fn factor(&self, progress: &Progress) -> Result<f64> {
        if self.lr_end >= progress.learning_rate {
            return Err(Error::new(format!(
                "lr_end ({}) must be smaller than the learning rate ({})",
                self.lr_end, progress.learning_rate
            )));
        }
        let floor = self.lr_end / progress.learning_rate;
        Ok(warming(progress)
            .unwrap_or_else(|| (1.0 - floor) * (1.0 - done(progress)).powf(self.power) + floor))
    }
}

register! {
    /// A fall by a power of the remaining share to lr_end; options lr_end, power.
    LrSchedule, "polynomial", Polynomial
}
