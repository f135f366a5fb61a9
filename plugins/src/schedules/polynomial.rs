//! A power of the remaining share.

use super::{done, warming};
use apus_sdk::{Error, LrSchedule, Progress, Result, register};

apus_sdk::options! {
    struct Polynomial {
        /// The learning rate at the end, below learning_rate.
        lr_end: f64 = 1e-7,
        /// Power of the share of steps that remain; 1 is a straight line.
        power: f64 = 1.0,
    }
    limits {
        lr_end: 0.0..,
        power: 0.0..,
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
    /// A linear rise, then a fall to lr_end by a power of the share of steps that remain.
    LrSchedule, "polynomial", Polynomial
}
