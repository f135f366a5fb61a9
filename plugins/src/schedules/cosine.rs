//! Cosine curves: half a wave down, with restarts, or down to a floor.

use super::{done, warming};
use apus_sdk::{Error, LrSchedule, Progress, Result, register};
use std::f64::consts::PI;

apus_sdk::options! {
    struct Cosine {
        /// Waves over the run; 0.5 goes down once.
        num_cycles: f64 = 0.5,
    }
    limits {
        num_cycles: 0.0..,
    }
}

/// `0.5 (1 + cos(2 pi cycles done))`, as `_get_cosine_schedule_with_warmup_lr_lambda`.
fn wave(progress: &Progress, cycles: f64) -> f64 {
    (0.5 * (1.0 + (PI * cycles * 2.0 * done(progress)).cos())).max(0.0)
}

impl LrSchedule for Cosine {
    fn factor(&self, progress: &Progress) -> Result<f64> {
        Ok(warming(progress).unwrap_or_else(|| wave(progress, self.num_cycles)))
    }
}

register! {
    /// A linear rise, then half a cosine down to 0.
    LrSchedule, "cosine", Cosine
}

apus_sdk::options! {
    struct CosineWithRestarts {
        /// Falls over the run, each from the full rate to 0.
        num_cycles: u32 = 1,
    }
    limits {
        num_cycles: 1.0..,
    }
}

impl LrSchedule for CosineWithRestarts {
    fn factor(&self, progress: &Progress) -> Result<f64> {
        if let Some(rise) = warming(progress) {
            return Ok(rise);
        }
        let done = done(progress);
        if done >= 1.0 {
            return Ok(0.0);
        }
        let phase = (f64::from(self.num_cycles) * done) % 1.0;
        Ok((0.5 * (1.0 + (PI * phase).cos())).max(0.0))
    }
}

register! {
    /// A linear rise, then several cosines down to 0, each from the full rate.
    LrSchedule, "cosine_with_restarts", CosineWithRestarts
}

apus_sdk::options! {
    struct CosineWithMinLr {
        /// The learning rate at the end; this or min_lr_rate is needed.
        min_lr: Option<f64> = None,
        /// The learning rate at the end as a share of learning_rate, 0 to 1.
        min_lr_rate: Option<f64> = None,
        /// Waves over the run; none is 0.5, which goes down once.
        num_cycles: Option<f64> = None,
    }
    limits {
        min_lr: 0.0..,
        min_lr_rate: 0.0..=1.0,
        num_cycles: 0.0..,
    }
}

/// The share of the learning rate that stays at the end, from the two ways of saying it.
fn floor(lr: Option<f64>, rate: Option<f64>, progress: &Progress) -> Result<f64> {
    match (lr, rate) {
        (None, Some(rate)) => Ok(rate),
        (Some(lr), None) => Ok(lr / progress.learning_rate),
        (Some(_), Some(_)) => Err(Error::new(
            "min_lr and min_lr_rate are both set; keep one of them",
        )),
        (None, None) => Err(Error::new(
            "needs min_lr or min_lr_rate, for example \
             --lr_scheduler_kwargs '{\"min_lr_rate\": 0.1}'",
        )),
    }
}

impl LrSchedule for CosineWithMinLr {
    fn factor(&self, progress: &Progress) -> Result<f64> {
        let floor = floor(self.min_lr, self.min_lr_rate, progress)?;
        Ok(warming(progress).unwrap_or_else(|| {
            wave(progress, self.num_cycles.unwrap_or(0.5)) * (1.0 - floor) + floor
        }))
    }
}

register! {
    /// A linear rise, then half a cosine down to min_lr, or to min_lr_rate times the learning rate.
    LrSchedule, "cosine_with_min_lr", CosineWithMinLr
}

apus_sdk::options! {
    struct CosineWarmupWithMinLr {
        /// The learning rate at the end; this or min_lr_rate is needed.
        min_lr: Option<f64> = None,
        /// The learning rate at the end as a share of learning_rate, 0 to 1.
        min_lr_rate: Option<f64> = None,
        /// The share of learning_rate that the first step has; none is one over the steps of warm-up.
        warmup_lr_rate: Option<f64> = None,
        /// Waves over the run; 0.5 goes down once.
        num_cycles: f64 = 0.5,
    }
    limits {
        min_lr: 0.0..,
        min_lr_rate: 0.0..=1.0,
        warmup_lr_rate: 0.0..=1.0,
        num_cycles: 0.0..,
    }
}

/// `_get_cosine_with_min_lr_schedule_with_warmup_lr_rate_lambda`: the last step of warm-up has the whole
/// learning rate and the last step of the run the least one, each a step earlier than in the other schedules.
impl LrSchedule for CosineWarmupWithMinLr {
    fn factor(&self, progress: &Progress) -> Result<f64> {
        let floor = floor(self.min_lr, self.min_lr_rate, progress)?;
        let (step, warmup) = (progress.step as f64, progress.warmup as f64);
        if progress.step < progress.warmup {
            return Ok(match self.warmup_lr_rate {
                None => (step + 1.0) / warmup,
                Some(start) => start + (1.0 - start) * step / (warmup - 1.0).max(1.0),
            });
        }
        let done = (step - warmup + 1.0) / (progress.total as f64 - warmup).max(1.0);
        let wave = 0.5 * (1.0 + (PI * self.num_cycles * 2.0 * done).cos());
        Ok((wave * (1.0 - floor) + floor).max(0.0))
    }
}

register! {
    /// A linear rise that begins above 0, then half a cosine down to min_lr or min_lr_rate, reached by the last step.
    LrSchedule, "cosine_warmup_with_min_lr", CosineWarmupWithMinLr
}
