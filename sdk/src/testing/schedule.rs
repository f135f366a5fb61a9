//! Schedules: the factors of a run.

use crate::{Error, LrSchedule, Progress, Result};

/// The factor of each update of a whole run, with a learning rate of 1e-4.
///
/// # Errors
/// Those of the schedule; a factor that is negative or not finite.
pub fn curve(schedule: &dyn LrSchedule, total: u64, warmup: u64) -> Result<Vec<f64>> {
    let at = |step| {
        let factor = schedule.factor(&Progress {
            step,
            total,
            warmup,
            learning_rate: 1e-4,
        })?;
        match factor.is_finite() && factor >= 0.0 {
            true => Ok(factor),
            false => Err(Error::new(format!(
                "the factor after {step} updates is {factor}; it is a finite number of 0 or more"
            ))),
        }
    };
    (0..total).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Falls(f64);
    impl LrSchedule for Falls {
        fn factor(&self, progress: &Progress) -> Result<f64> {
            let left = (progress.total - progress.step) as f64 / progress.total as f64;
            Ok(left - self.0)
        }
    }

    #[test]
    fn the_whole_run_is_asked_for() {
        assert_eq!(curve(&Falls(0.0), 4, 0).unwrap(), [1.0, 0.75, 0.5, 0.25]);
        let error = curve(&Falls(0.5), 4, 0).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("the factor after 3 updates is -0.25")
        );
        assert!(curve(&Falls(f64::NAN), 1, 0).is_err());
    }
}
