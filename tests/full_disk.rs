//! A disk that is full, for a moment or for good. A limit on the size of files stands for it, which is set on a running
//! process and lifted again; a write beyond it is cut off and then fails, as on a full disk.
#![cfg(target_os = "linux")]

mod common;

use common::training::{TINY, by_step, checkpoints, log, losses, sft};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A run that is told of a file that may not grow, rather than killed by the signal.
fn start(dir: &Path, flags: &str) -> Child {
    let run = sft(
        dir,
        &format!("--model {TINY}/model_mxfp4 --gradient_accumulation_steps 1 {flags}"),
    );
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    command.arg(run.get_program()).args(run.get_args());
    command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32).unwrap()
}

/// Files may have so many bytes, or as many as they like.
fn limit(child: &Child, bytes: Option<u64>) {
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Some(pid(child)), Resource::Fsize, limit).unwrap();
}

#[track_caller]
fn until(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed().as_secs() < 120,
            "waited for {what} in vain"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

fn about(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("run.json")).unwrap()).unwrap()
}

fn said(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[test]
fn a_full_disk_for_a_moment_costs_no_line() {
    let home = tempfile::tempdir().unwrap();
    let child = start(home.path(), "--max_steps 100000 --save_steps 100000");
    let path = home.path().join("logging.jsonl");
    until("the first steps", || size(&path) > 500);
    // Into the middle of a line, so that half of one is written.
    let bytes = size(&path) + 1000;
    limit(&child, Some(bytes));
    until("the limit", || size(&path) == bytes);
    let half = fs::read_to_string(&path).unwrap();
    assert!(!half.ends_with('\n'), "{half}");
    std::thread::sleep(Duration::from_millis(500));
    limit(&child, None);
    until("what comes after", || size(&path) > bytes + 2000);
    kill_process(pid(&child), Signal::TERM).unwrap();
    let (code, said) = said(child);
    assert_eq!(code, Some(130), "{said}");
    assert!(
        said.contains("logging.jsonl: File too large") && said.contains("kept and tried again"),
        "{said}"
    );
    assert!(
        said.contains("what had to wait is written, nothing is lost"),
        "{said}"
    );
    // Every line is whole, and every step is there once.
    let steps: Vec<u64> = losses(home.path()).iter().map(|(step, ..)| *step).collect();
    assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>());
    assert_eq!(about(home.path())["state"], "interrupted");
}

#[test]
fn a_checkpoint_that_cannot_be_written_says_what_is_free_and_harms_nothing() {
    let home = tempfile::tempdir().unwrap();
    let child = start(home.path(), "--max_steps 100000 --save_steps 20");
    let first = home.path().join("checkpoint-20");
    until("the first checkpoint", || first.is_dir());
    limit(&child, Some(10_000));
    let log_is_full = || size(&home.path().join("logging.jsonl")) >= 10_000;
    let (code, said) = said(child);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("cannot be saved (") && said.contains(" free on its disk)"),
        "{said}"
    );
    assert!(said.contains("earlier checkpoints are untouched"), "{said}");
    // It tells its end although there was no room for its lines.
    assert_eq!(about(home.path())["state"], "crashed", "{}", log_is_full());
    let left = fs::read_dir(home.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = left
        .filter(|name| name.to_string_lossy().starts_with(".checkpoint"))
        .collect();
    assert!(hidden.is_empty(), "{hidden:?}");
    // And it goes on from the last that there is, in the same folder, where half a line may stand.
    let last = checkpoints(home.path()).pop().unwrap();
    let flags = format!(
        "--model {TINY}/model_mxfp4 --gradient_accumulation_steps 1 --max_steps {} --save_steps 20",
        last + 2
    );
    let resume = format!("{flags} --resume_from_checkpoint true --resume_changes max_steps");
    common::training::trains(home.path(), &resume);
    assert!(log(home.path()).len() > 20);
    let _ = by_step;
}
