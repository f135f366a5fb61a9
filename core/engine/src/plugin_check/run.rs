//! What takes part in a run as a whole: schedules, callbacks, trackers.

use super::{Finding, Findings, push};
use crate::train::Events;
use anyhow::{Context, Result, ensure};
use apus_components::registry::Spec;
use apus_components::registry::{self, Named};
use apus_sdk::{
    Callback, EndState, Level, LrSchedule, Progress, RunInfo, RunState, Tracker, testing,
};
use serde_json::{Map, Value, json};
use std::path::Path;

pub(super) fn schedule(schedule: &Named<dyn LrSchedule>, findings: &mut Findings) {
    for (total, warmup) in [(100, 0), (100, 10), (1, 0), (1_000_000, 1000)] {
        let name = format!("{total} steps, {warmup} of warm-up");
        push(findings, &name, curve(schedule, total, warmup));
    }
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

/// Plays a run of six steps in two epochs, with evaluations and saves, in the trainer's order.
pub(super) fn callback(spec: &Spec, findings: &mut Findings) -> Result<()> {
    let folder = tempfile::tempdir().context("a folder for the run")?;
    let callback: Named<dyn Callback> = registry::named(spec)?;
    let mut events = Events::new(vec![callback]);
    push(
        findings,
        "every event of a run",
        play(&mut events, folder.path()),
    );
    let kept = (|| -> Result<String> {
        let kept = events.save_state()?;
        let mut again = Events::new(vec![registry::named(spec)?]);
        again.load_state(kept.clone())?;
        ensure!(
            again.save_state()? == kept,
            "what load_state was given is not what save_state gives then"
        );
        Ok(match kept.values().next() {
            Some(kept) => kept.to_string(),
            None => "nothing is kept".to_owned(),
        })
    })();
    push(findings, "state for checkpoints", kept);
    Ok(())
}

fn play(events: &mut Events, folder: &Path) -> Result<String> {
    const STEPS: u64 = 6;
    let mut state = RunState {
        max_steps: STEPS,
        num_train_epochs: 2.0,
        output_dir: folder.to_owned(),
        ..RunState::default()
    };
    let mut asked = Vec::new();
    events.on_init_end(&state)?;
    events.on_train_begin(&state)?;
    for step in 0..STEPS {
        if step % 3 == 0 {
            events.on_epoch_begin(&state)?;
        }
        events.on_step_begin(&state)?;
        events.on_substep_end(&state)?;
        events.on_pre_optimizer_step(&state)?;
        events.on_optimizer_step(&state)?;
        let loss = 2.0 / (step + 1) as f64;
        state.global_step = step + 1;
        state.epoch = (step + 1) as f64 / 3.0;
        (state.loss, state.grad_norm, state.learning_rate) = (Some(loss), Some(0.5), 1e-4);
        events.on_step_end(&state)?;
        if step % 3 == 2 {
            events.on_epoch_end(&state)?;
        }
        let mut values = map(json!({"loss": loss, "learning_rate": 1e-4, "epoch": state.epoch}));
        events.on_log(&mut values, &state)?;
        state.log_history.push(values);
        if step % 2 == 1 {
            events.on_prediction_step(&state)?;
            let metrics = map(json!({"eval_loss": loss, "eval_token_acc": 0.5}));
            state.best_metric = Some(loss);
            state.best_model_checkpoint = Some(folder.join(format!("checkpoint-{}", step + 1)));
            events.on_evaluate(&metrics, &state)?;
            state.log_history.push(metrics);
            events.on_save(&folder.join(format!("checkpoint-{}", step + 1)), &state)?;
        }
        let control = std::mem::take(&mut events.control);
        for prompt in &control.generate {
            events.on_generate(prompt, "an answer", &state)?;
        }
        for (what, is) in [
            ("save", control.should_save),
            ("evaluate", control.should_evaluate),
            ("log", control.should_log),
            ("stop", control.should_training_stop),
            ("another learning rate", control.lr_factor.is_some()),
            ("answers", !control.generate.is_empty()),
        ] {
            if is && !asked.contains(&what) {
                asked.push(what);
            }
        }
    }
    events.on_train_end(&state)?;
    Ok(match asked.is_empty() {
        true => "it asked for nothing".to_owned(),
        false => format!("it asked to {}", asked.join(", ")),
    })
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

pub(super) fn tracker(mut tracker: Named<dyn Tracker>, findings: &mut Findings) {
    let result = tempfile::tempdir()
        .context("a folder for the run")
        .and_then(|folder| {
            let run = RunInfo {
                name: "check".to_owned(),
                dir: folder.path().to_owned(),
                config: map(
                    json!({"model": "tiny", "learning_rate": 1e-4, "dataset": ["a.jsonl"]}),
                ),
                max_steps: 3,
                ..RunInfo::default()
            };
            play_tracker(tracker.component.as_mut(), &run)?;
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
}

fn play_tracker(tracker: &mut dyn Tracker, run: &RunInfo) -> Result<()> {
    let said = |error: apus_sdk::Error| anyhow::anyhow!("{error}");
    tracker.start(run).map_err(said)?;
    for step in 1..=3u64 {
        let values = json!({"loss": 1.0 / step as f64, "learning_rate": 1e-4, "epoch": 0.5,
                            "global_step/max_steps": format!("{step}/3"), "grad_norm": null});
        tracker.log(step, &map(values)).map_err(said)?;
    }
    let values = json!({"eval_loss": 0.7, "eval_token_acc": 0.5, "eval_runtime": 0.1});
    tracker.log(3, &map(values)).map_err(said)?;
    tracker
        .text(3, "Who are you?", "喵 \"quoted\"\nand more")
        .map_err(said)?;
    tracker.image(3, "loss", testing::DOT).map_err(said)?;
    tracker
        .line(Level::Warning, "warning: one row is left out")
        .map_err(said)?;
    let machine = map(json!({"cpu.pct": 12.5, "gpu.0.power": 412.0}));
    tracker.system(&machine).map_err(said)?;
    tracker
        .saved(3, &run.dir.join("checkpoint-3"))
        .map_err(said)?;
    let summary = map(json!({"train_loss": 0.6, "train_runtime": 1.5}));
    tracker.finish(&EndState::Finished(summary)).map_err(said)
}
