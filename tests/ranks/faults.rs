//! What goes wrong on one rank ends all of them in time, and the terminal says which rank, where, why, and what is saved.

use crate::common::training::{TINY, checkpoints, said};
use crate::processes::{Part, all_end, process, send};
use crate::runs::{listen, ranks, same, trains, wait_for};
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

fn hostile_plugin() -> String {
    let plugin = format!("{DLL_PREFIX}hostile_plugin{DLL_SUFFIX}");
    let plugin = std::env::current_exe().unwrap().with_file_name(plugin);
    plugin.display().to_string()
}

#[track_caller]
fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
}

#[test]
fn a_callback_that_hangs_ends_all_after_the_limit_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let flags = format!(
        "--gradient_accumulation_steps 2 --plugin {} --callbacks hangs --ddp_timeout 3",
        hostile_plugin()
    );
    let run = dir.path().join("run");
    let output = ranks(&run, 2, &flags).output().unwrap();
    assert!(!output.status.success());
    all_end(&run);
    let parts = [
        "rank 0 (host ",
        "it is at step 2, in callback hangs of plugin hostile-plugin",
        "on_step_end",
        "ddp_timeout is 3 s",
        "The newest checkpoint is ",
        "checkpoint-1: go on with --resume_from_checkpoint",
    ];
    says(&said(&output), &parts);
}

/// What a loss does on rank 1 alone, and what the terminal says of it.
const ON_ONE_RANK: [(&str, &[&str]); 4] = [
    (
        "hangs",
        &[
            "has not come to step 3",
            "it is at step 3, in loss on_rank of plugin hostile-plugin",
            "per_token",
            "ddp_timeout is 3 s",
        ],
    ),
    ("panics", &["step 3", "loss on_rank", "hostile on rank 1"]),
    ("out_of_memory", &["step 3", "memory"]),
    (
        "allocates",
        &["the connection to rank 1 (host ", "has ended"],
    ),
];

#[test]
fn a_rank_that_fails_alone_ends_all_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for (way, parts) in ON_ONE_RANK {
        let run = dir.path().join(way);
        let loss = format!(
            "--plugin {} --loss_type on_rank --loss_type.rank 1 --loss_type.way {way} --loss_type.after 2",
            hostile_plugin()
        );
        let flags = format!("--gradient_accumulation_steps 1 --ddp_timeout 3 {loss}");
        let since = Instant::now();
        let output = ranks(&run, 2, &flags).output().unwrap();
        let said = said(&output);
        assert!(!output.status.success(), "{way}: {said}");
        assert!(since.elapsed() < Duration::from_secs(30), "{way}");
        all_end(&run);
        says(&said, &["rank 1 (host ", "process "]);
        says(&said, parts);
        says(&said, &["The newest checkpoint is ", "checkpoint-2"]);
        assert_eq!(checkpoints(&run), [1, 2], "{way}");
    }
}

/// How an optimizer leaves the others in the middle of a step that has passes made again, and what is said of it.
const LEAVES: [(&str, &str); 4] = [
    (
        "before",
        "rank 1: optimizer passes_on_rank of plugin hostile-plugin",
    ),
    (
        "after",
        "rank 1: optimizer passes_on_rank of plugin hostile-plugin",
    ),
    ("without", "rank 0: the optimizer makes the passes"),
    ("again", "rank 1: the optimizer makes the passes"),
];

/// The others do not wait for it until `ddp_timeout`, which is half an hour here: the run ends on all ranks at once.
#[test]
fn an_optimizer_that_leaves_the_passes_of_a_step_ends_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for (way, says_of_it) in LEAVES {
        let run = dir.path().join(way);
        let optimizer = format!(
            "--plugin {} --optimizer passes_on_rank --optimizer.rank 1 --optimizer.way {way} --optimizer.after 2",
            hostile_plugin()
        );
        let since = Instant::now();
        let flags = format!("--gradient_accumulation_steps 1 {optimizer}");
        let output = ranks(&run, 2, &flags).output().unwrap();
        let said = said(&output);
        assert!(!output.status.success(), "{way}: {said}");
        assert!(since.elapsed() < Duration::from_secs(30), "{way}: {said}");
        all_end(&run);
        says(&said, &["step 3", says_of_it]);
        assert_eq!(checkpoints(&run), [1, 2], "{way}");
    }
}

/// Every rank asks its components before the model is looked for.
#[test]
fn a_check_ends_every_rank() {
    let dir = tempfile::tempdir().unwrap();
    let asking = format!("{DLL_PREFIX}asking_plugin{DLL_SUFFIX}");
    let asking = std::env::current_exe().unwrap().with_file_name(asking);
    let run = dir.path().join("checks");
    let flags = format!("--plugin {} --callbacks checks", asking.display());
    let output = ranks(&run, 2, &flags).output().unwrap();
    let said = said(&output);
    assert!(!output.status.success(), "{said}");
    all_end(&run);
    says(
        &said,
        &["callback checks of plugin asking-plugin", ", rank "],
    );
}

fn mpirun() -> Command {
    let mut command = Command::new("mpirun");
    command.args([
        "--allow-run-as-root",
        "--oversubscribe",
        "--bind-to",
        "none",
    ]);
    command.env("RAYON_NUM_THREADS", "1");
    command
}

/// Two ranks of mpirun with command lines of their own.
fn two_command_lines(run: &Path, zero: &str, one: &str) -> (bool, String) {
    let line = |flags: &str| -> Vec<String> {
        let command = ranks(run, 1, flags);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words
            .map(|word| word.to_str().unwrap().to_owned())
            .collect()
    };
    let mut command = mpirun();
    command.args(["-np", "1"]).args(line(zero)).arg(":");
    command.args(["-np", "1"]).args(line(one));
    let output = command.output().unwrap();
    all_end(run);
    (output.status.success(), said(&output))
}

#[test]
fn ranks_that_were_started_otherwise_are_refused_with_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other.jsonl");
    fs::copy(format!("{TINY}/chat_train.jsonl"), &other).unwrap();
    let other = format!("--dataset {}", other.display());
    let (hostile, asking) = (
        hostile_plugin(),
        hostile_plugin().replace("hostile", "asking"),
    );
    let plugin = |file: &str| format!("--plugin {file}");
    for (at, (zero, one, differs)) in [
        ("", other.as_str(), "dataset"),
        ("", "--learning_rate 1e-4", "learning_rate"),
        ("--lora_rank 4", "", "lora_rank"),
        ("", "--model {TINY}/model_bf16", "model"),
        (&plugin(&hostile), &plugin(&asking), "plugin"),
    ]
    .into_iter()
    .enumerate()
    {
        let run = dir.path().join(format!("run-{at}"));
        let (ended_well, said) = two_command_lines(&run, zero, &one.replace("{TINY}", TINY));
        assert!(!ended_well, "{differs}: {said}");
        says(
            &said,
            &["rank 0 (host ", "rank 1 (host ", &format!("has {differs}")],
        );
        says(&said, &["same configuration, data and plugins"]);
        // Each rank has the same words.
        let errors = said
            .lines()
            .filter(|line| line.starts_with("error: rank 0"));
        assert_eq!(errors.count(), 2, "{said}");
        assert!(checkpoints(&run).is_empty());
    }
}

/// Each rank finds another model at the same path, as on hosts whose disks differ: that of its working directory.
#[test]
fn ranks_that_find_another_model_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let line = ranks(&run, 1, "--model /proc/self/cwd");
    let mut command = mpirun();
    for (model, end) in [("model_mxfp4", Some(":")), ("model_bf16", None)] {
        command.args(["-np", "1", "-wdir", &format!("{TINY}/{model}")]);
        command
            .arg(line.get_program())
            .args(line.get_args())
            .args(end);
    }
    let output = command.output().unwrap();
    all_end(&run);
    assert!(!output.status.success());
    says(
        &said(&output),
        &[
            "error: rank 1 (host ",
            "/proc/self/cwd has other weights or another config.json on this host",
        ],
    );
}

#[test]
fn what_rank_0_cannot_begin_with_is_known_to_all() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let flags = "--dataset /nowhere/rows.jsonl";
    let (ended_well, said) = two_command_lines(&run, flags, flags);
    assert!(!ended_well);
    says(
        &said,
        &["no dataset /nowhere/rows.jsonl: there is no folder /nowhere"],
    );
    says(&said, &["error: rank 0 (host "]);
}

#[test]
fn a_full_disk_on_rank_0_ends_all_and_harms_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let flags = "--gradient_accumulation_steps 1 --max_steps 100000 --save_steps 20";
    let rank = ranks(&run, 1, flags);
    let mut command = mpirun();
    // Each is told of a file that may not grow, rather than killed by the signal.
    let script = "trap '' XFSZ; exec \"$0\" \"$@\"";
    command.args(["-np", "2", "sh", "-c", script]);
    command.arg(rank.get_program()).args(rank.get_args());
    let child = listen(&mut command);
    wait_for(&run.join("checkpoint-20"));
    let limit = Rlimit {
        current: Some(10_000),
        maximum: None,
    };
    prlimit(process(&run, Part::Rank(0)), Resource::Fsize, limit).unwrap();
    let output = child.wait_with_output().unwrap();
    all_end(&run);
    assert!(!output.status.success());
    says(
        &said(&output),
        &["cannot be saved (", "earlier checkpoints are untouched"],
    );
    let last = checkpoints(&run).pop().unwrap();
    let flags = format!(
        "--gradient_accumulation_steps 1 --max_steps {} --save_steps 20 --resume_from_checkpoint true --resume_changes max_steps",
        last + 2
    );
    trains(&mut ranks(&run, 2, &flags));
}

/// A rank that has stopped is known by its silence, and so takes the longest of all faults.
#[test]
#[ignore = "long: scripts/soak"]
fn soak_a_rank_that_has_stopped_ends_all() {
    let dir = tempfile::tempdir().unwrap();
    for stopped in [0, 1] {
        let run = dir.path().join(format!("run-{stopped}"));
        let flags = "--gradient_accumulation_steps 2 --max_steps 100000 --save_total_limit 1";
        let child = listen(&mut ranks(&run, 2, flags));
        // By then the others know of the first one.
        wait_for(&run.join("checkpoint-2"));
        assert!(send(&run, Part::Rank(stopped), Signal::STOP));
        println!(
            "rank {stopped} stopped: all had ended after {:?}",
            all_end(&run)
        );
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success());
        let rank = format!("rank {stopped} (host ");
        says(
            &said(&output),
            &[&rank, "gave no sign of life", "The newest checkpoint is "],
        );
    }
}

/// A file system that takes longer for a checkpoint than a rank may be silent: the library call that flushes a file waits.
#[test]
#[ignore = "long: scripts/soak"]
fn soak_a_slow_file_system_is_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let (source, library) = (dir.path().join("slow.c"), dir.path().join("slow.so"));
    fs::write(&source, SLOW_FSYNC).unwrap();
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source);
    match compiler.status() {
        Ok(status) if status.success() => {}
        _ => return println!("skipped: there is no C compiler"),
    }
    let (one, run) = (dir.path().join("one"), dir.path().join("run"));
    let flags = "--max_steps 3 --save_steps 2 --ddp_timeout 5";
    trains(&mut ranks(
        &one,
        1,
        &format!("{flags} --gradient_accumulation_steps 4"),
    ));
    let since = Instant::now();
    let mut slow = ranks(&run, 2, &format!("{flags} --gradient_accumulation_steps 2"));
    trains(slow.env("LD_PRELOAD", &library).env("SLOW_FSYNC", "30"));
    println!(
        "a run whose first flush takes 30 s took {:?}",
        since.elapsed()
    );
    assert!(since.elapsed() > Duration::from_secs(30));
    same("slow file system", &one, &run);
}

/// Makes the first flush of a process wait.
const SLOW_FSYNC: &str = r#"
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static int waited;
static void wait_once(void) {
    const char *seconds = getenv("SLOW_FSYNC");
    if (seconds && !waited++) sleep(atoi(seconds));
}
int fsync(int file) { wait_once(); return syscall(SYS_fsync, file); }
int fdatasync(int file) { wait_once(); return syscall(SYS_fdatasync, file); }
"#;
