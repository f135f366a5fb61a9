//! What is wrong with how ranks are started is one clear error, in little time, and leaves no process.

use crate::common::training::{checkpoints, said};
use crate::processes::all_end;
use crate::runs::{ranks, trains};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const VARIABLES: [&str; 15] = [
    "NPROC_PER_NODE",
    "NNODES",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_LOCALID",
    "SLURM_STEP_ID",
];

fn with(run: &Path, variables: &str, flags: &str) -> Command {
    let mut command = ranks(
        run,
        1,
        &format!("--gradient_accumulation_steps 2 --max_steps 1 {flags}"),
    );
    for name in VARIABLES {
        command.env_remove(name);
    }
    let pairs = variables
        .split_whitespace()
        .filter_map(|pair| pair.split_once('='));
    command.envs(pairs);
    command
}

#[track_caller]
fn refused(run: &Path, variables: &str, flags: &str) -> Output {
    let since = Instant::now();
    let output = with(run, variables, flags).output().unwrap();
    assert!(
        since.elapsed() < Duration::from_secs(20),
        "{variables}: {:?}",
        since.elapsed()
    );
    all_end(run);
    let said = said(&output);
    assert!(!output.status.success(), "{variables}: {said}");
    assert_eq!(said.matches("error: ").count(), 1, "{variables}: {said}");
    assert!(!said.contains("apus has a bug"), "{variables}: {said}");
    assert!(
        !run.exists(),
        "{variables}: a run that was refused leaves no folder"
    );
    output
}

#[test]
fn what_is_wrong_with_the_start_is_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    for (variables, says) in [
        (
            "NPROC_PER_NODE=0",
            "NPROC_PER_NODE is 0, expected the number of processes",
        ),
        (
            "NPROC_PER_NODE=abc",
            "NPROC_PER_NODE is \"abc\", expected a whole number",
        ),
        ("NPROC_PER_NODE=2.5", "NPROC_PER_NODE is \"2.5\""),
        ("NPROC_PER_NODE=2 MASTER_PORT=70000", "expected 1 to 65535"),
        ("NNODES=2 NPROC_PER_NODE=1", "MASTER_ADDR is not set"),
        (
            "NNODES=2 NODE_RANK=0 MASTER_ADDR=127.0.0.1",
            "NNODES is above 1 (2 ranks",
        ),
        ("RANK=0", "WORLD_SIZE, LOCAL_RANK are not"),
        ("WORLD_SIZE=2", "RANK, LOCAL_RANK are not"),
        // What another launcher has started has no MPI among it.
        (
            "RANK=0 LOCAL_RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29654",
            "torchrun says rank 0 of 2, and MPI says rank 0 of 1",
        ),
        (
            "SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=1 SLURM_STEP_ID=0",
            "srun says rank 1 of 2, and MPI says",
        ),
        (
            "SLURM_PROCID=1 SLURM_STEP_ID=0",
            "SLURM_NTASKS, SLURM_LOCALID are not",
        ),
    ] {
        let said = said(&refused(&run, variables, ""));
        assert!(said.contains(says), "{variables}: {said}");
    }
}

#[test]
fn what_every_rank_would_refuse_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    for (flags, says) in [
        ("--dataset /nowhere.jsonl", "no dataset /nowhere.jsonl"),
        ("--model /nowhere", "/nowhere: no such model directory"),
        ("--plugin /nowhere.so", "/nowhere.so"),
        ("--device cuda:1", "one card for 2 ranks"),
        ("--lora_dropout 2", "lora_dropout is 2"),
        (
            "--resume_from_checkpoint /nowhere",
            "/nowhere: no such checkpoint folder",
        ),
    ] {
        let output = with(&run, "NPROC_PER_NODE=2", flags).output().unwrap();
        all_end(&run);
        let said = said(&output);
        assert!(
            !output.status.success() && said.contains(says),
            "{flags}: {said}"
        );
        assert_eq!(said.matches("error: ").count(), 1, "{flags}: {said}");
    }
}

#[test]
fn a_port_that_is_in_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let listener = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let variables = format!("NPROC_PER_NODE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={port}");
    let output = with(&run, &variables, "").output().unwrap();
    all_end(&run);
    let said = said(&output);
    assert!(!output.status.success());
    assert!(
        said.contains(&format!("port {port} of this host is in use")),
        "{said}"
    );
}

#[test]
fn ranks_may_be_more_than_cores_or_examples_and_one_is_a_run_as_any_other() {
    let dir = tempfile::tempdir().unwrap();
    // Eight examples: with nine ranks one has nothing to do, and in an evaluation of two most have not.
    for count in [1, 9] {
        let run = dir.path().join(count.to_string());
        let flags = "--per_device_train_batch_size 1 --gradient_accumulation_steps 1 --max_steps 2 --split_dataset_ratio 0.25";
        trains(&mut ranks(&run, count, flags));
        assert_eq!(checkpoints(&run), [1, 2], "{count}");
    }
    // The plan of a run, and nothing that waits for it.
    let run = dir.path().join("dry");
    let output = with(&run, "NPROC_PER_NODE=2", "--dry_run true")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(all_end(&run) < Duration::from_secs(5));
}
