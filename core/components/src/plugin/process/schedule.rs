//! A learning-rate schedule in a process.

use super::Remote;
use apus_sdk::{LrSchedule, Progress, Result, Run, Setup};
use serde_json::json;

struct Schedule(Remote);

pub(super) fn new(remote: Remote) -> Box<dyn LrSchedule> {
    Box::new(Schedule(remote))
}

impl LrSchedule for Schedule {
    fn check(&self, setup: &Setup) -> Result<()> {
        self.0.check(setup)
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        self.0.begin(run)
    }

    fn factor(&self, progress: &Progress) -> Result<f64> {
        self.0.call(
            "factor",
            json!({
                "step": progress.step, "total": progress.total, "warmup": progress.warmup,
                "learning_rate": progress.learning_rate,
            }),
        )
    }
}
