//! Learning-rate schedules by the names and formulas of `transformers.optimization`.

mod constant;
mod cosine;
mod inverse_sqrt;
mod linear;
mod polynomial;
mod warmup_stable_decay;

use apus_sdk::Progress;

/// The rise during warm-up: `step / max(1, warmup)`, or `None` once it is over.
fn warming(progress: &Progress) -> Option<f64> {
    (progress.step < progress.warmup).then(|| progress.step as f64 / progress.warmup.max(1) as f64)
}

/// How much of the run after warm-up is done: 0 at its start, 1 at the last step and beyond.
fn done(progress: &Progress) -> f64 {
    let total = progress.total.saturating_sub(progress.warmup).max(1) as f64;
    (progress.step.saturating_sub(progress.warmup) as f64 / total).min(1.0)
}

#[cfg(test)]
mod tests;
