//! Schedules: factors of whole runs are finite and not below 0.

use super::run::SmallRun;
use super::{Checked, Finding, Findings, push};
use anyhow::{Result, ensure};
use apus_components::registry::Named;
use apus_sdk::{LrSchedule, Progress};

pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    let mut schedule = checked.make::<dyn LrSchedule>()?;
    let run = SmallRun::new(checked.device)?;
    if !run.begins(findings, &mut schedule, |schedule, run| schedule.begin(run)) {
        return Ok(());
    }
    for (total, warmup) in [(100, 0), (100, 10), (1, 0), (1_000_000, 1000)] {
        let name = format!("{total} steps, {warmup} of warm-up");
        push(findings, &name, curve(&schedule, total, warmup));
    }
    if !findings.iter().any(Finding::is_failure) {
        push(
            findings,
            "asked in another order",
            without_memory(&schedule),
        );
    }
    Ok(())
}

/// A run that goes on from a checkpoint asks for the factors from there on, and a report may ask for any of them.
fn without_memory(schedule: &Named<dyn LrSchedule>) -> Result<String> {
    const TOTAL: u64 = 40;
    let factor = |step| {
        let progress = Progress {
            step,
            total: TOTAL,
            warmup: 4,
            learning_rate: 1e-4,
        };
        let factor = schedule.component.factor(&progress);
        factor.map_err(|error| anyhow::anyhow!("{error}"))
    };
    let in_order = (0..TOTAL).map(factor).collect::<Result<Vec<_>>>()?;
    for (step, before) in in_order.into_iter().enumerate().rev() {
        let now = factor(step as u64)?;
        ensure!(
            now == before,
            "after {step} steps the factor was {before} and is {now} when it is asked for again: a factor may depend on \
             the step alone, since a run that goes on from a checkpoint asks only for those that are left"
        );
    }
    Ok("the same factors".to_owned())
}

fn curve(schedule: &Named<dyn LrSchedule>, total: u64, warmup: u64) -> Result<String> {
    let every = (total / 1000).max(1);
    let steps = (0..total).step_by(every as usize).chain([total - 1]);
    let mut factors = Vec::new();
    for step in steps {
        let progress = Progress {
            step,
            total,
            warmup,
            learning_rate: 1e-4,
        };
        let factor = schedule.component.factor(&progress);
        let factor = factor.map_err(|error| anyhow::anyhow!("{error}"))?;
        ensure!(
            factor.is_finite() && factor >= 0.0,
            "after {step} steps the factor is {factor}"
        );
        factors.push(factor);
    }
    let most = factors.iter().copied().fold(0.0, f64::max);
    let first = factors.first().copied().unwrap_or(0.0);
    let last = factors.last().copied().unwrap_or(0.0);
    Ok(format!("from {first:.4} over {most:.4} to {last:.4}"))
}
