//! Learning-rate schedules.

use crate::{Need, Result, Run, Setup};

/// The learning rate over a run, as a factor on `learning_rate`.
///
/// ```
/// use apus_sdk::{LrSchedule, Progress, Result, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct Root {
///         /// The factor never falls below this.
///         least: f64 = 0.0,
///     }
/// }
///
/// impl LrSchedule for Root {
///     fn factor(&self, progress: &Progress) -> Result<f64> {
///         let (step, warmup) = (progress.step as f64, progress.warmup as f64);
///         let rise = if warmup > 0.0 { step / warmup } else { 1.0 };
///         let left = 1.0 - step / progress.total as f64;
///         Ok(rise.min(left.sqrt()).max(self.least))
///     }
/// }
///
/// register! {
///     /// Falls with the root of what is left.
///     LrSchedule, "root", Root
/// }
///
/// let root = testing::make::<dyn LrSchedule>("root", json!({"least": 0.1}))?;
/// let factors = testing::curve(&*root, 100, 10)?;
/// assert_eq!((factors[0], factors[5], factors[75]), (0.1, 0.5, 0.5));
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub trait LrSchedule: Send + Sync {
    /// What of SDK 1.1 and later it uses.
    fn needs() -> &'static [Need]
    where
        Self: Sized,
    {
        &[]
    }

    /// Looks at the set-up of a run before its model is read; with [`Need::Check`]. Without it nothing is checked.
    ///
    /// # Errors
    /// What contradicts the component; it ends the command.
    fn check(&self, setup: &Setup) -> Result<()> {
        setup.leave();
        Ok(())
    }

    /// Training begins soon, as part of this run. The run tells something to those that declare [`Need::Run`] or a
    /// need that implies it.
    ///
    /// # Errors
    /// Whatever keeps it from working; the run does not begin.
    fn begin(&mut self, run: &Run) -> Result<()> {
        let _ = run;
        Ok(())
    }

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
