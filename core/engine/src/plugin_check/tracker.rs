//! Trackers: they receive a whole run, with everything that one reports.

use super::run::info;
use super::{Checked, Finding, Findings, map, push};
use anyhow::{Context, Result};
use apus_sdk::{EndState, Level, RunInfo, Tracker, testing};
use serde_json::json;

pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    let mut tracker = checked.make::<dyn Tracker>()?;
    let result = tempfile::tempdir()
        .context("a folder for the run")
        .and_then(|folder| {
            let run = info(folder.path());
            play(tracker.component.as_mut(), &run)?;
            let files = std::fs::read_dir(folder.path())?;
            let names: Vec<String> = files
                .flatten()
                .map(|file| file.file_name().to_string_lossy().into_owned())
                .collect();
            Ok(match names.is_empty() {
                true => "no file in the run's folder".to_owned(),
                false => format!("in the run's folder: {}", names.join(", ")),
            })
        });
    push(findings, "a whole run", result);
    if tracker.component.on_terminal() {
        findings.push(Finding::Good("writes to the terminal".to_owned()));
    }
    Ok(())
}

fn play(tracker: &mut dyn Tracker, run: &RunInfo) -> apus_sdk::Result<()> {
    tracker.start(run)?;
    for step in 1..=3u64 {
        let values = json!({"loss": 1.0 / step as f64, "learning_rate": 1e-4, "epoch": 0.5,
                            "global_step/max_steps": format!("{step}/3"), "grad_norm": null});
        tracker.log(step, &map(values))?;
    }
    let values = json!({"eval_loss": 0.7, "eval_token_acc": 0.5, "eval_runtime": 0.1});
    tracker.log(3, &map(values))?;
    tracker.text(3, "Who are you?", "喵 \"quoted\"\nand more")?;
    tracker.image(3, "loss", testing::DOT)?;
    tracker.line(Level::Warning, "warning: one row is left out")?;
    let machine = map(json!({"cpu.pct": 12.5, "gpu.0.power": 412.0}));
    tracker.system(&machine)?;
    tracker.saved(3, &run.dir.join("checkpoint-3"))?;
    let summary = map(json!({"train_loss": 0.6, "train_runtime": 1.5}));
    tracker.finish(&EndState::Finished(summary))
}
