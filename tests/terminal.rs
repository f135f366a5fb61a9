//! Nobody has to read along: closed pipes, a full disk behind standard output, terminals that go away.
#![cfg(unix)]

mod common;

use common::folder;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");
const APUS: &str = env!("CARGO_BIN_EXE_apus");

/// Words of a run of 30 steps with an evaluation and answers on the way, everything that prints.
fn sft(dir: &Path, flags: &str) -> String {
    format!(
        "sft --model {TINY}/model_bf16 --dataset {TINY}/chat_train.jsonl --val_dataset {TINY}/chat_train.jsonl \
         --current_date 2025-08-05 --device cpu --max_steps 30 --logging_steps 1 --save_steps 10 \
         --gradient_accumulation_steps 1 --lora_rank 4 --sample_prompts Hello --max_new_tokens 3 \
         --output_dir {} --add_version false {flags}",
        dir.display()
    )
}

/// Whether the run has made all its steps and saved them.
#[track_caller]
fn assert_whole(dir: &Path) {
    let log = fs::read_to_string(dir.join("logging.jsonl")).unwrap();
    assert!(log.contains("\"30/30\""), "{log}");
    assert!(dir.join("checkpoint-30/trainer_state.json").is_file());
}

fn wait_for(what: &str, is_there: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_there() {
        assert!(started.elapsed() < Duration::from_secs(120), "{what}");
        sleep(Duration::from_millis(10));
    }
}

/// Starts a run and waits for its first step.
fn started(command: &mut Command, dir: &Path) -> Child {
    let child = command.spawn().unwrap();
    let log = dir.join("logging.jsonl");
    wait_for("the first step", || {
        fs::metadata(&log).is_ok_and(|log| log.len() > 0)
    });
    child
}

/// Runs with nobody at the other end of standard output.
fn unread(line: &str) -> Output {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let words = line.split_whitespace();
    let mut command = Command::new(APUS);
    command.args(words).stdin(Stdio::null()).stdout(writer);
    command.output().unwrap()
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let home = folder("unread");
    for line in [
        "components",
        "components loss",
        "sft --help",
        "plugin list",
        &format!("data {TINY}/chat_train.jsonl --model {TINY}/model_bf16 --samples 20"),
        &format!("infer --model {TINY}/model_bf16 --max_new_tokens 2"),
        &sft(&home, "--dry_run true"),
    ] {
        let output = unread(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "apus {line}\n{said}");
        assert!(!said.contains("apus has a bug"), "apus {line}\n{said}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_said() {
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let output = Command::new(APUS)
        .arg("components")
        .stdout(full())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("error: standard output cannot be written: No space left"),
        "{said}"
    );

    // A run's results are in its folder.
    let dir = folder("full");
    let mut command = Command::new(APUS);
    command.args(sft(&dir, "").split_whitespace());
    assert!(
        command
            .stdout(full())
            .stderr(full())
            .status()
            .unwrap()
            .success()
    );
    assert_whole(&dir);
}

#[test]
fn a_run_goes_on_when_its_reader_leaves() {
    let dir = folder("reader-leaves");
    let mut command = Command::new(APUS);
    command.args(sft(&dir, "").split_whitespace());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = BufReader::new(child.stderr.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    drop(said);
    assert!(child.wait().unwrap().success());
    assert_whole(&dir);
}

/// A terminal for a command, gone when its process is killed. None where there is no `script`.
/// Whether SIGHUP is ignored in this process, and so in every command it starts, which then cannot show what an ended terminal
/// does: the tests run under nohup.
fn hangups_are_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let is = ignored.is_some_and(|mask| mask & 1 == 1);
    if is {
        println!("skipped in part: SIGHUP is ignored here");
    }
    is
}

fn terminal(command: &str) -> Option<Command> {
    let found = Command::new("script").arg("--version").output();
    if !found.is_ok_and(|found| found.status.success()) {
        println!("skipped: there is no script of util-linux");
        return None;
    }
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--flush", "--command", command, "/dev/null"]);
    terminal.stdin(Stdio::null()).stdout(Stdio::null());
    Some(terminal)
}

#[test]
fn a_terminal_that_goes_away() {
    for (name, panel) in [("bar", ""), ("panel", "--tui true")] {
        // With its SIGHUP ignored, as nohup has it, the run goes on to its end.
        let dir = folder(&format!("gone-{name}"));
        let line = format!("trap '' HUP; exec {APUS} {}", sft(&dir, panel));
        let Some(mut command) = terminal(&line) else {
            return;
        };
        let mut child = started(&mut command, &dir);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for("the last checkpoint", || dir.join("checkpoint-30").is_dir());
        wait_for("the report", || dir.join("report.html").is_file());
        assert_whole(&dir);

        // Without, it saves and leaves.
        if hangups_are_ignored() {
            continue;
        }
        let dir = folder(&format!("hung-up-{name}"));
        let flags = format!("{panel} --max_steps 100000 --save_steps 100000");
        let line = format!("exec {APUS} {}", sft(&dir, &flags));
        let Some(mut command) = terminal(&line) else {
            return;
        };
        let mut child = started(&mut command, &dir);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for("the report", || dir.join("report.html").is_file());
        let saved = fs::read_dir(&dir).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("checkpoint-")
        });
        assert_eq!(saved.count(), 1, "{name}");
    }
}

#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    for (trap, code) in [("trap '' HUP; ", 0), ("", 130)] {
        if code != 0 && hangups_are_ignored() {
            continue;
        }
        let dir = folder(&format!("hangup-{code}"));
        let line = format!("{trap}exec {APUS} {}", sft(&dir, "--logging_steps 1"));
        let mut command = Command::new("sh");
        command
            .args(["-c", &line])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = started(&mut command, &dir);
        let id = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-HUP", &id])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(child.wait().unwrap().code(), Some(code));
        if code == 0 {
            assert_whole(&dir);
        }
    }
}
