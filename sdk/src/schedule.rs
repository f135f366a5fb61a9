//! Learning-rate schedules.

use crate::Result;

/// The learning rate over a run, as a factor on `learning_rate`.
pub trait LrSchedule: Send + Sync {
    /// The factor for the update after `progress.step` updates were made.
    ///
    /// # Errors
    /// Options that do not fit the run, found at the first call.
    fn factor(&self, progress: &Progress) -> Result<f64>;
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Updates made so far: 0 for the first.
    pub step: u64,
    /// Updates of the whole run.
    pub total: u64,
    /// Updates of warm-up (`warmup_steps`, or `ceil(warmup_ratio * total)`).
    pub warmup: u64,
    /// The base learning rate, for schedules with an absolute minimum.
    pub learning_rate: f64,
}
