//! Runs of several ranks, and whether two runs are the same.

use crate::common::training::{TINY, checkpoints, greatest_gap, log, losses, said, sft};
use candle_core::{Device, Tensor};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// `apus sft` on the tiny model, by this many ranks.
pub fn ranks(dir: &Path, count: usize, flags: &str) -> Command {
    let mut command = sft(
        dir,
        &format!(
            "--model {TINY}/model_mxfp4 --per_device_train_batch_size 1 --max_steps 4 --save_steps 1 {flags}"
        ),
    );
    command
        .env("NPROC_PER_NODE", count.to_string())
        .env("RAYON_NUM_THREADS", "1");
    command
}

/// A run that has to come to its end.
#[track_caller]
pub fn trains(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    output
}

/// The weights of an adapter or a model.
pub fn weights(checkpoint: &Path) -> HashMap<String, Tensor> {
    let names = ["adapter_model.safetensors", "model.safetensors"];
    let file = names.map(|name| checkpoint.join(name));
    let file = file.iter().find(|file| file.is_file()).unwrap();
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

/// Loss and norm of each step; of one that was made again, after a run was stopped, the newest.
pub fn newest(run: &Path) -> BTreeMap<u64, (f64, f64)> {
    let steps = losses(run).into_iter();
    steps
        .map(|(step, loss, norm)| (step, (loss, norm)))
        .collect()
}

/// Whether two runs had the same losses and ended with the same weights, but for the order in which numbers are added.
#[track_caller]
pub fn same(name: &str, one: &Path, several: &Path) {
    same_within(2e-5, name, one, several);
}

/// As [`same`], with weights that differ by at most this.
#[track_caller]
pub fn same_within(most: f32, name: &str, one: &Path, several: &Path) {
    let (expected, found) = (newest(one), newest(several));
    assert_eq!(expected.len(), found.len(), "{name}");
    for (step, (loss, norm)) in &expected {
        let (found_loss, found_norm) = found[step];
        assert!(
            (loss - found_loss).abs() < 1e-5,
            "{name}, step {step}: loss {found_loss}, expected {loss}"
        );
        assert!(
            (norm - found_norm).abs() < 1e-4 * norm.max(1.0),
            "{name}, step {step}: norm {found_norm}, expected {norm}"
        );
    }
    same_evaluations(name, one, several);
    assert_eq!(checkpoints(one), checkpoints(several), "{name}");
    let last = format!("checkpoint-{}", checkpoints(one).pop().unwrap());
    let (expected, found) = (weights(&one.join(&last)), weights(&several.join(&last)));
    assert_eq!(expected.len(), found.len(), "{name}");
    for (tensor, expected) in &expected {
        let gap = greatest_gap(expected, &found[tensor]);
        assert!(gap < most, "{name}: {tensor} differs by {gap}");
    }
}

/// Whether two runs had the same numbers in their evaluations.
#[track_caller]
fn same_evaluations(name: &str, one: &Path, several: &Path) {
    let evaluations = |run: &Path| -> Vec<Value> {
        let lines = log(run).into_iter();
        lines
            .filter(|line| line.get("eval_loss").is_some())
            .collect()
    };
    let (expected, found) = (evaluations(one), evaluations(several));
    assert_eq!(expected.len(), found.len(), "{name}: evaluations");
    for (expected, found) in expected.iter().zip(&found) {
        let line = expected.as_object().unwrap().iter();
        let numbers = line.filter(|(key, _)| {
            key.starts_with("eval_") && !key.contains("second") && !key.contains("runtime")
        });
        for (key, expected) in numbers {
            let (expected, found) = (expected.as_f64().unwrap(), found[key].as_f64().unwrap());
            assert!(
                (expected - found).abs() < 1e-5,
                "{name}: {key} is {found}, expected {expected}"
            );
        }
    }
}

/// Starts a run whose words nobody reads.
pub fn start(command: &mut Command) -> Child {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.spawn().unwrap()
}

/// Starts a run; what it says at the terminal comes with [`Child::wait_with_output`].
pub fn listen(command: &mut Command) -> Child {
    let heard = command.stdout(Stdio::null()).stderr(Stdio::piped());
    heard.spawn().unwrap()
}

/// Waits until there is this file or folder.
#[track_caller]
pub fn wait_for(path: &Path) {
    let since = Instant::now();
    while !path.exists() {
        assert!(
            since.elapsed() < Duration::from_secs(120),
            "{} did not come",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a step is in the log.
pub fn wait_for_line(run: &Path) {
    wait_for(&run.join("logging.jsonl"));
    let since = Instant::now();
    while std::fs::read_to_string(run.join("logging.jsonl"))
        .unwrap()
        .is_empty()
    {
        assert!(since.elapsed() < Duration::from_secs(120));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends SIGTERM to the launcher, and waits for it.
pub fn stop(mut child: Child) -> Option<i32> {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap().code()
}

/// Removes the checkpoints after this step, and what the log has of them.
pub fn remove_after(run: &Path, step: u64) {
    for other in checkpoints(run).into_iter().filter(|other| *other > step) {
        std::fs::remove_dir_all(run.join(format!("checkpoint-{other}"))).unwrap();
    }
}
