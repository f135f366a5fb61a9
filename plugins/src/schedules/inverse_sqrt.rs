//! One over the root of the step.

use super::warming;
use apus_sdk::{LrSchedule, Progress, Result, register};
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct InverseSqrt {
    timescale: Option<u64>,
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
    /// A linear rise, then 1 / sqrt(step); option timescale (the warm-up, or 10000).
    LrSchedule, "inverse_sqrt", InverseSqrt
}
