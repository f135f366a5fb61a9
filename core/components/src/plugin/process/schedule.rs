//! A learning-rate schedule in a process.

use super::Remote;
use apus_sdk::{LrSchedule, Progress, Result};
use serde_json::json;

struct Schedule(Remote);

pub(super) fn new(remote: Remote) -> Box<dyn LrSchedule> {
    Box::new(Schedule(remote))
}

impl LrSchedule for Schedule {
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
