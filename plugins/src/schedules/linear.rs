//! A straight line down.

use super::{done, warming};
use apus_sdk::{LrSchedule, Progress, Result, register};
use serde::Deserialize;

#[derive(Deserialize)]
struct Linear;

impl LrSchedule for Linear {
    fn factor(&self, progress: &Progress) -> Result<f64> {
        Ok(warming(progress).unwrap_or_else(|| 1.0 - done(progress)))
    }
}

register! {
    /// A linear rise, then a linear fall to 0.
    LrSchedule, "linear", Linear
}
