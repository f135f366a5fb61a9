//! A learning rate that stays.

use super::warming;
use apus_sdk::{LrSchedule, Progress, Result, register};
use serde::Deserialize;

#[derive(Deserialize)]
struct Constant;

impl LrSchedule for Constant {
    fn factor(&self, _progress: &Progress) -> Result<f64> {
        Ok(1.0)
    }
}

register! {
    /// The same learning rate at every step, without warm-up.
    LrSchedule, "constant", Constant
}

#[derive(Deserialize)]
struct ConstantWithWarmup;

impl LrSchedule for ConstantWithWarmup {
    fn factor(&self, progress: &Progress) -> Result<f64> {
        Ok(warming(progress).unwrap_or(1.0))
    }
}

register! {
    /// A linear rise, then the same learning rate.
    LrSchedule, "constant_with_warmup", ConstantWithWarmup
}
