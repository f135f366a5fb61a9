//! Rise, plateau, fall (MiniCPM, <https://arxiv.org/abs/2404.06395>), as `get_wsd_schedule`.

use apus_sdk::{Error, LrSchedule, Progress, Result, register};
use serde::Deserialize;
use std::f64::consts::PI;

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Linear,
    Cosine,
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WarmupStableDecay {
    num_decay_steps: Option<u64>,
    num_stable_steps: Option<u64>,
    warmup_type: Shape,
    decay_type: Shape,
    min_lr_ratio: f64,
    num_cycles: f64,
}

impl Default for WarmupStableDecay {
    fn default() -> Self {
        Self {
            num_decay_steps: None,
            num_stable_steps: None,
            warmup_type: Shape::Linear,
            decay_type: Shape::Cosine,
            min_lr_ratio: 0.0,
            num_cycles: 0.5,
        }
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
    /// Rise, plateau, fall; options num_decay_steps, num_stable_steps, warmup_type, decay_type, min_lr_ratio, num_cycles.
    LrSchedule, "warmup_stable_decay", WarmupStableDecay
}
