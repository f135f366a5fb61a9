//! Times as ms-swift writes them.

use std::time::{Duration, Instant};

/// `1h 2m 3s`, `1m 3s`, `3s`.
pub fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    let mut text = String::new();
    for (count, unit) in [(days, 'd'), (hours, 'h'), (minutes, 'm')] {
        if count > 0 || !text.is_empty() {
            text.push_str(&format!("{count}{unit} "));
        }
    }
    text + &format!("{}s", seconds % 60)
}

/// Measures a run: time used, time left, tokens.
pub struct Clock {
    start: Instant,
    first_step: u64,
    /// Tokens that went through the model in training.
    pub tokens: u64,
    tokens_before: u64,
    training: Duration,
    training_total: Duration,
    /// Seconds in collectives since the last line of the log, and the steps that took them.
    collectives: (f64, u64),
    losses: f64,
    /// Examples that went through the model in training.
    pub samples: u64,
}

impl Clock {
    /// Starts now, at this many steps made.
    pub fn start(step: u64) -> Self {
        let now = Instant::now();
        Self {
            start: now,
            first_step: step,
            tokens: 0,
            tokens_before: 0,
            training: Duration::ZERO,
            training_total: Duration::ZERO,
            collectives: (0.0, 0),
            losses: 0.0,
            samples: 0,
        }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Time left at the present pace.
    pub fn remaining(&self, step: u64, total: u64) -> Duration {
        let made = self.made(step).max(1);
        self.elapsed()
            .mul_f64(total.saturating_sub(step) as f64 / made as f64)
    }

    /// Mean seconds a step.
    pub fn seconds_per_step(&self, step: u64) -> f64 {
        self.elapsed().as_secs_f64() / self.made(step).max(1) as f64
    }

    /// Counts a training step that took `time` for `tokens` of `samples`, and gave `loss`.
    pub fn count(&mut self, time: Duration, samples: usize, tokens: usize, loss: f64) {
        self.samples += samples as u64;
        self.training += time;
        self.tokens += tokens as u64;
        self.losses += loss;
    }

    /// Counts the seconds of a step that its ranks spent in collectives.
    pub fn count_collectives(&mut self, seconds: f64) {
        self.collectives.0 += seconds;
        self.collectives.1 += 1;
    }

    /// Seconds a step in collectives since the last call.
    pub fn window_collectives(&mut self) -> f64 {
        let (seconds, steps) = std::mem::take(&mut self.collectives);
        seconds / steps.max(1) as f64
    }

    /// Steps that this process made, where `step` are made in all.
    pub fn made(&self, step: u64) -> u64 {
        step.saturating_sub(self.first_step)
    }

    /// Mean loss of the steps that this process made.
    pub fn mean_loss(&self, step: u64) -> f64 {
        self.losses / self.made(step).max(1) as f64
    }

    /// Tokens a second in training steps since the last call.
    pub fn window_rate(&mut self) -> f64 {
        let time = std::mem::take(&mut self.training);
        self.training_total += time;
        let tokens = self.tokens - std::mem::replace(&mut self.tokens_before, self.tokens);
        tokens as f64 / time.as_secs_f64().max(1e-9)
    }

    /// Tokens a second over all training steps.
    pub fn rate(&self) -> f64 {
        let time = self.training_total + self.training;
        self.tokens as f64 / time.as_secs_f64().max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_for_people() {
        let shown = |s| human(Duration::from_secs(s));
        assert_eq!(shown(3), "3s");
        assert_eq!(shown(63), "1m 3s");
        assert_eq!(shown(3600), "1h 0m 0s");
        assert_eq!(shown(90_061), "1d 1h 1m 1s");
    }
}
