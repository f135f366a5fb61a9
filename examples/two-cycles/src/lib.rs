//! A schedule of two cosine cycles: a second, lower peak shakes the run out of where the first one
//! ended (warm restarts, Loshchilov & Hutter, 2016, <https://arxiv.org/abs/1608.03983>).

use apus_sdk::{LrSchedule, Progress, Result};
use std::f64::consts::PI;

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct TwoCycles {
        /// Peak of the second cycle, as a factor on the learning rate.
        second: f64 = 0.5,
        /// Where both cycles end, as a factor on the learning rate.
        min: f64 = 0.0,
    }
}

apus_sdk::register! {
    /// A linear rise, a cosine down to `min`, a jump to `second` and another cosine down to `min`.
    LrSchedule, "two_cosine_cycles", TwoCycles
}

impl LrSchedule for TwoCycles {
    fn factor(&self, progress: &Progress) -> Result<f64> {
        let Progress {
            step,
            total,
            warmup,
            ..
        } = *progress;
        if step < warmup {
            return Ok(step as f64 / warmup as f64);
        }
        let length = total.saturating_sub(warmup).max(1) as f64;
        let cycles = (2.0 * (step - warmup) as f64 / length).min(2.0);
        let (peak, phase) = if cycles < 1.0 {
            (1.0, cycles)
        } else {
            (self.second, cycles - 1.0)
        };
        Ok(self.min + (peak - self.min) * 0.5 * (1.0 + (PI * phase).cos()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::curve;

    #[test]
    fn the_curve_rises_falls_and_starts_again() {
        let schedule = TwoCycles {
            second: 0.6,
            min: 0.2,
        };
        let found = curve(&schedule, 10, 2).unwrap();
        let (down, again) = (
            |phase: f64| 0.6 + 0.4 * (PI * phase).cos(),
            |phase: f64| 0.4 + 0.2 * (PI * phase).cos(),
        );
        let expected = [
            0.0,
            0.5,
            1.0,
            down(0.25),
            0.6,
            down(0.75),
            0.6,
            again(0.25),
            0.4,
            again(0.75),
        ];
        for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                (found - expected).abs() < 1e-12,
                "{step}: {found} {expected}"
            );
        }
    }

    #[test]
    fn the_end_is_the_floor_even_of_no_steps() {
        let at = |step, total| {
            let progress = Progress {
                step,
                total,
                warmup: 0,
                learning_rate: 1e-4,
            };
            TwoCycles::default().factor(&progress).unwrap()
        };
        assert_eq!((at(10, 10), at(11, 10)), (0.0, 0.0));
        assert_eq!(at(0, 0), 1.0);
    }
}
