//! The SwanLab tracker against a server on this machine.

mod faults;
mod resume;
mod run;
mod server;
mod sync;
mod weight;

use apus_sdk::{EndState, RunInfo, Tracker, testing};
use serde_json::{Map, Value, json};
use server::{KEY, Server};
use std::path::{Path, PathBuf};

/// A tracker for this server that ships at once.
fn tracker(server: &Server, more: Value) -> Box<dyn Tracker> {
    tracker_at(&server.url, more)
}

fn tracker_at(url: &str, more: Value) -> Box<dyn Tracker> {
    apus_swanlab::link();
    let mut options = json!({"host": url, "token": KEY, "interval": 0.01, "mode": "cloud", "finish_timeout": 20.0});
    options.as_object_mut().unwrap().extend(object(more));
    testing::make::<dyn Tracker>("swanlab", options).unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

fn info(dir: &Path) -> RunInfo {
    RunInfo {
        name: "output/v0".to_owned(),
        dir: dir.to_owned(),
        config: object(json!({"lr": 1e-4, "model": "tiny"})),
        max_steps: 10,
        id: "abcd1234".to_owned(),
        command: vec!["apus".to_owned(), "sft".to_owned()],
        ..RunInfo::default()
    }
}

/// The folders of the files that a run wrote.
fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("swanlog")).unwrap();
    let mut dirs: Vec<PathBuf> = entries
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir())
        .collect();
    dirs.sort();
    dirs
}

fn log(tracker: &mut dyn Tracker, steps: std::ops::RangeInclusive<u64>) {
    for step in steps {
        let values =
            object(json!({"loss": step as f64, "learning_rate": 1e-5, "elapsed_time": "1s"}));
        tracker.log(step, &values).unwrap();
    }
}

fn finished() -> EndState {
    EndState::Finished(Map::new())
}

/// Steps of a key that the server has.
fn steps(experiment: &server::Experiment, key: &str) -> Vec<i64> {
    let keys = experiment.numbers.keys().filter(|(k, _)| k == key);
    keys.map(|(_, step)| *step).collect()
}
