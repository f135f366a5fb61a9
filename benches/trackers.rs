//! What looking at a run costs: 100,000 steps of 20 numbers each through the built-in trackers, pictures and the report.
//!
//! Steps come every tenth of a millisecond, which is faster than any training and slow enough that no tracker loses a
//! report. Prints the time that the training thread spends per step, and by how much the process has grown.

use apus_components::registry;
use apus_components::registry::Spec;
use apus_engine::train::{Pictures, Screen, Trackers};
use apus_sdk::{EndState, RunInfo};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

const STEPS: u64 = 100_000;
const PACE: Duration = Duration::from_micros(100);

fn main() {
    apus_plugins::link();
    let dir = tempfile::tempdir().unwrap();
    let mut offline = Spec::named("swanlab");
    offline.options.insert("mode".to_owned(), "offline".into());
    let specs = [Spec::named("jsonl"), Spec::named("tensorboard"), offline];
    let trackers = specs.iter().map(|spec| registry::named(spec).unwrap());
    let run = RunInfo {
        id: "bench123".to_owned(),
        dir: dir.path().to_owned(),
        max_steps: STEPS,
        ..RunInfo::default()
    };
    let before = memory("VmRSS:");
    let patience = Duration::from_secs(120);
    let mut trackers = Trackers::start(trackers.collect(), &run, &Screen::Plain, patience);
    trackers.draw(Pictures::new(dir.path()));
    let mut costs: Vec<f64> = Vec::with_capacity(STEPS as usize);
    let began = Instant::now();
    for step in 1..=STEPS {
        let values = numbers(step);
        let at = Instant::now();
        trackers.log(step, &values);
        costs.push(at.elapsed().as_secs_f64() * 1e6);
        if step.is_multiple_of(10_000) {
            trackers.saved(step, &dir.path().join(format!("checkpoint-{step}")));
        }
        while began.elapsed() < PACE * u32::try_from(step).unwrap() {
            std::thread::sleep(PACE / 4);
        }
    }
    let end = Instant::now();
    trackers.finish(STEPS, &EndState::Finished(Map::new()));
    let end = end.elapsed().as_secs_f64();
    let grown = memory("VmHWM:") - before - (STEPS * 8) as f64 / 1024.0;
    let mean = costs.iter().sum::<f64>() / STEPS as f64;
    costs.sort_by(f64::total_cmp);
    let of = |share: f64| costs[((STEPS - 1) as f64 * share) as usize];
    println!(
        "{STEPS} steps: {mean:.1} µs a step in the mean, {:.1} half of them, {:.1} 99 %, {:.0} at most",
        of(0.5),
        of(0.99),
        of(1.0)
    );
    println!(
        "the process grew by {:.0} MB at most; the end took {end:.1} s",
        grown / 1024.0
    );
    for name in ["logging.jsonl", "report.html", "images/train_loss.png"] {
        let size = std::fs::metadata(dir.path().join(name)).unwrap().len();
        println!("{name}: {:.1} MB", size as f64 / 1e6);
    }
}

fn numbers(step: u64) -> Map<String, Value> {
    let x = step as f64;
    let mut values = Map::new();
    values.insert("loss".to_owned(), json!(3.0 / x.sqrt()));
    values.insert(
        "global_step/max_steps".to_owned(),
        json!(format!("{step}/{STEPS}")),
    );
    for index in 2..20 {
        values.insert(
            format!("number_{index}"),
            json!((x * f64::from(index)).sin()),
        );
    }
    values
}

/// A line of `/proc/self/status`, in KiB.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok())
        .unwrap_or(f64::NAN)
}
