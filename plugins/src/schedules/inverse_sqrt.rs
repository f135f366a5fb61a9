//! One over the root of the step.

use super::warming;
use apus_sdk::{LrSchedule, Progress, Result, register};

apus_sdk::options! {
    struct InverseSqrt {
        /// Steps after warm-up until the rate is at 1 / sqrt(2) of its peak; none is the number of
        /// warm-up steps, or 10000 without any.
        timescale: Option<u64> = None,
    }
    limits {
        timescale: 1.0..,
    }
}

impl LrSchedule for InverseSqrt {
    fn factor(&self, progress: &Progress) -> Result<f64> {
        if let Some(rise) = warming(progress) {
            return Ok(rise);
        }
        let timescale = match self.timescale {
            Some(timescale) => timescale,
            None if progress.warmup > 0 => progress.warmup,
            None => 10_000,
        } as f64;
        let shift = timescale - progress.warmup as f64;
        Ok(1.0 / ((progress.step as f64 + shift) / timescale).sqrt())
    }
}

register! {
    /// A linear rise, then 1 / sqrt(step).
    LrSchedule, "inverse_sqrt", InverseSqrt
}
