//! Rise, plateau, fall (MiniCPM, <https://arxiv.org/abs/2404.06395>), as `get_wsd_schedule`.

use apus_sdk::{Error, LrSchedule, Progress, Result, register};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Linear,
    Cosine,
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

apus_sdk::options! {
    struct WarmupStableDecay {
        /// Steps of the fall; needed.
        num_decay_steps: Option<u64> = None,
        /// Steps of the plateau; none is what warm-up and fall leave of the run.
        num_stable_steps: Option<u64> = None,
        /// Form of the rise: linear, cosine or 1-sqrt.
        warmup_type: Shape = Shape::Linear,
        /// Form of the fall: linear, cosine or 1-sqrt.
        decay_type: Shape = Shape::Cosine,
        /// Share of learning_rate at which the rise begins and the fall ends, 0 to 1.
        min_lr_ratio: f64 = 0.0,
        /// Waves of a cosine fall; 0.5 goes down once.
        num_cycles: f64 = 0.5,
    }
    limits {
        min_lr_ratio: 0.0..=1.0,
        num_cycles: 0.0..,
    }
}

impl WarmupStableDecay {
    fn scale(&self, factor: f64) -> f64 {
        (factor * (1.0 - self.min_lr_ratio) + self.min_lr_ratio).max(0.0)
    }
}

impl LrSchedule for WarmupStableDecay {
    fn factor(&self, progress: &Progress) -> Result<f64> {
        let Some(decay) = self.num_decay_steps else {
            return Err(Error::new(
                "needs num_decay_steps, for example --lr_scheduler_kwargs '{\"num_decay_steps\": 100}'",
            ));
        };
        let stable = self
            .num_stable_steps
            .unwrap_or_else(|| progress.total.saturating_sub(progress.warmup + decay));
        let (step, warmup) = (progress.step, progress.warmup);
        if step < warmup {
            let part = step as f64 / warmup.max(1) as f64;
            return Ok(self.scale(match self.warmup_type {
                Shape::Linear => part,
                Shape::Cosine => 0.5 * (1.0 - (PI * part).cos()),
                Shape::OneMinusSqrt => 1.0 - (1.0 - part).sqrt(),
            }));
        }
        if step < warmup + stable {
            return Ok(1.0);
        }
        if step < warmup + stable + decay {
            let part = (step - warmup - stable) as f64 / decay.max(1) as f64;
            return Ok(self.scale(match self.decay_type {
                Shape::Linear => 1.0 - part,
                Shape::Cosine => 0.5 * (1.0 + (PI * self.num_cycles * 2.0 * part).cos()),
                Shape::OneMinusSqrt => 1.0 - part.sqrt(),
            }));
        }
        Ok(self.min_lr_ratio)
    }
}

register! {
    /// Rise, plateau, fall.
    LrSchedule, "warmup_stable_decay", WarmupStableDecay
}
