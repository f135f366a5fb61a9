//! Schedules: factors of whole runs are finite and not below 0.

use super::run::SmallRun;
use super::{Checked, Findings, push};
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
    Ok(())
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
