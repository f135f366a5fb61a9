//! A schedule: after warm-up, a straight line from the full learning rate down to a floor.

use apus_sdk::{LrSchedule, Progress, Result};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct LinearToFloor {
        /// The learning rate at the end, as a share of learning_rate, 0 to 1.
        floor: f64 = 0.1,
    }
}

apus_sdk::register! {
    /// A linear rise, then a linear fall to a floor.
    LrSchedule, "{{component}}", LinearToFloor
}

impl LrSchedule for LinearToFloor {
    fn factor(&self, progress: &Progress) -> Result<f64> {
        let (step, warmup) = (progress.step, progress.warmup);
        if step < warmup {
            return Ok(step as f64 / warmup as f64);
        }
        let length = progress.total.saturating_sub(warmup).max(1) as f64;
        let done = ((step - warmup) as f64 / length).min(1.0);
        Ok(1.0 - done * (1.0 - self.floor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{curve, make};

    #[test]
    fn up_and_down_to_the_floor() {
        let schedule = make::<dyn LrSchedule>("{{component}}", json!({"floor": 0.2})).unwrap();
        let found = curve(schedule.as_ref(), 12, 4).unwrap();
        for (step, expected) in [(0, 0.0), (2, 0.5), (4, 1.0), (8, 0.6), (11, 0.3)] {
            assert!((found[step] - expected).abs() < 1e-9, "{step}: {found:?}");
        }
    }
}
