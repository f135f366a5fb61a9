//! Runs that are killed at any moment go on as if nothing had been.
#![cfg(unix)]

mod common;

use common::training::{
    Random, TINY, by_step, checkpoints, refuses, said, sft, times, trains, weights,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Kinds of run: what is trained, on which data, saved how.
const KINDS: [(&str, &str); 14] = [
    ("lora", ""),
    ("dropout", "--lora_dropout 0.1 --seed 7"),
    ("dora", "--use_dora true"),
    (
        "experts",
        "--target_parameters 1.mlp.experts.gate_up_proj 2.mlp.experts.down_proj",
    ),
    ("full", "--train_type full"),
    (
        "packed",
        "--max_length 256 --packing true --gradient_accumulation_steps 1",
    ),
    ("by length", "--group_by_length true"),
    ("streamed", "--streaming true --shuffle_buffer_size 4"),
    (
        "streamed and packed",
        "--streaming true --max_length 256 --packing true --gradient_accumulation_steps 1",
    ),
    (
        "best",
        "--split_dataset_ratio 0.25 --load_best_model_at_end true --save_total_limit 1",
    ),
    (
        "lion",
        "--optim lion --lr_scheduler_type constant --save_total_limit 2",
    ),
    (
        "plateaus",
        "--split_dataset_ratio 0.25 --save_steps 2 --eval_steps 1 --warmup_steps 2 --early_stop_interval 9",
    ),
    ("other passes", "--plugin {sam} --optimizer sam"),
    (
        "other weights saved",
        "--plugin {schedule_free} --optimizer schedule_free --split_dataset_ratio 0.25 --eval_steps 2",
    ),
];

const STEPS: u64 = 8;

fn flags(kind: &str) -> String {
    let mut kind = kind.to_owned();
    for name in ["sam", "schedule_free"] {
        let library = common::library(name);
        kind = kind.replace(&format!("{{{name}}}"), &library.display().to_string());
    }
    format!(
        "--model {TINY}/model_mxfp4 --gradient_accumulation_steps 2 --max_steps {STEPS} --save_steps 1 {kind}"
    )
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn start(command: &mut Command) -> Child {
    command
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What no kill may leave: half a checkpoint under a checkpoint's name.
fn every_checkpoint_is_whole(run: &Path, flags: &str) {
    for step in checkpoints(run) {
        let path = run.join(format!("checkpoint-{step}"));
        let probe = run.join("probe");
        let line = format!(
            "{flags} --resume_from_checkpoint {} --dry_run true",
            path.display()
        );
        let output = sft(&probe, &line).output().unwrap();
        assert!(
            output.status.success(),
            "{}: {}",
            path.display(),
            said(&output)
        );
    }
}

/// Kills a run of this kind `count` times, each time after a while drawn from as long as it takes, and lets it go on;
/// in the end it is the run that nobody killed.
fn killed_runs_go_on(kind: &str, count: u64, random: &mut Random) {
    let home = tempfile::tempdir().unwrap();
    let [whole, run] = ["whole", "killed"].map(|name| home.path().join(name));
    let flags = flags(kind);
    let started = Instant::now();
    trains(&whole, &flags);
    let takes = started.elapsed().as_millis() as u64;
    for _ in 0..count {
        let child = start(&mut sft(&run, &go_on(&run, &flags)));
        std::thread::sleep(Duration::from_millis(random.below(takes * 11 / 10 + 1)));
        kill(child);
        every_checkpoint_is_whole(&run, &flags);
        if checkpoints(&run).contains(&STEPS) {
            // It was through, so that the next one begins anew.
            same(&whole, &run, kind);
            fs::remove_dir_all(&run).unwrap();
        }
    }
    trains(&run, &go_on(&run, &flags));
    same(&whole, &run, kind);
    let left: Vec<PathBuf> = fs::read_dir(&run)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(".checkpoint")
        })
        .collect();
    assert!(left.is_empty(), "{kind}: {left:?}");
}

fn go_on(run: &Path, flags: &str) -> String {
    match run.is_dir() && !checkpoints(run).is_empty() {
        true => format!("{flags} --resume_from_checkpoint true"),
        false => flags.to_owned(),
    }
}

#[track_caller]
fn same(whole: &Path, run: &Path, kind: &str) {
    assert_eq!(by_step(run), by_step(whole), "{kind}");
    let last = format!("checkpoint-{STEPS}");
    assert_eq!(
        weights(&run.join(&last)),
        weights(&whole.join(&last)),
        "{kind}"
    );
}

#[test]
fn a_killed_run_goes_on() {
    let mut random = Random::new(1);
    for (name, kind) in [KINDS[1], KINDS[12], KINDS[13]] {
        let kills = if name == "dropout" { 2 } else { 1 };
        killed_runs_go_on(kind, kills, &mut random);
    }
}

#[test]
#[ignore = "long: scripts/soak"]
fn soak_killed_runs_go_on() {
    let mut random = Random::new(2);
    let each = times(126).div_ceil(KINDS.len() as u64);
    for (name, kind) in KINDS {
        println!("{name}: {each} kills");
        killed_runs_go_on(kind, each, &mut random);
    }
}

/// Waits until this run has logged a step.
fn until_it_trains(run: &Path) {
    let started = Instant::now();
    while fs::metadata(run.join("logging.jsonl")).map_or(0, |log| log.len()) == 0 {
        assert!(started.elapsed().as_secs() < 120, "the run did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_folder_belongs_to_one_run_until_it_dies() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    let flags = flags("--max_steps 100000 --save_steps 100000");
    let child = start(&mut sft(&run, &flags));
    until_it_trains(&run);
    let process = format!("process {}", child.id());
    refuses(
        &run,
        &flags,
        &["another run works in this folder", &process],
    );
    assert!(
        fs::read_to_string(run.join("args.json"))
            .unwrap()
            .contains("\"max_steps\": 100000")
    );
    kill(child);
    // What it left is cleaned up, and what lay in its folder is taken for nothing.
    let left = run.join(".checkpoint-3.tmp");
    fs::create_dir(&left).unwrap();
    trains(&run, &flags.replace("100000", "1"));
    assert!(!left.exists());
}

#[test]
fn a_signal_saves_and_leaves() {
    let home = tempfile::tempdir().unwrap();
    let child = start(&mut sft(
        home.path(),
        &flags("--max_steps 100000 --save_steps 100000"),
    ));
    until_it_trains(home.path());
    let id = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    let mut child = child;
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let [step] = checkpoints(home.path())[..] else {
        panic!("{:?}", checkpoints(home.path()))
    };
    let checkpoint = home.path().join(format!("checkpoint-{step}"));
    for file in [
        "adapter_model.safetensors",
        "optimizer.safetensors",
        "trainer_state.json",
        "checksums.json",
    ] {
        assert!(checkpoint.join(file).is_file(), "{file}");
    }
}
