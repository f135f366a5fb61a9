//! Several ranks on the CPU train what one process with as many times the accumulation trains. They talk through MPI, so that
//! these tests need the feature `mpi`: `cargo test --features mpi --test ranks`.
#![cfg(all(unix, feature = "mpi"))]

mod common;

use candle_core::{Device, Tensor};
use common::training::{Random, TINY, checkpoints, losses, said, sft, times};
use std::collections::{BTreeMap, HashMap};
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Kinds of run: what is trained, on which data.
const KINDS: [(&str, &str); 10] = [
    ("lora", ""),
    ("dropout", "--lora_dropout 0.1 --seed 7"),
    ("dora, noise", "--use_dora true --neftune_noise_alpha 5"),
    (
        "experts, auxiliary loss",
        "--target_parameters 1.mlp.experts.gate_up_proj 2.mlp.experts.down_proj --router_aux_loss_coef 0.01",
    ),
    ("full", "--train_type full --optim lion"),
    (
        "packed",
        "--max_length 256 --packing true --enable_channel_loss true",
    ),
    ("by length", "--group_by_length true"),
    (
        "by example",
        "--per_device_train_batch_size 2 --lora_dropout 0.1 --neftune_noise_alpha 5 --enable_channel_loss true",
    ),
    ("streamed", "--streaming true --shuffle_buffer_size 4"),
    (
        "best",
        "--split_dataset_ratio 0.25 --per_device_eval_batch_size 2 --eval_steps 1 --load_best_model_at_end true",
    ),
];

/// `apus sft` on the tiny model, by this many ranks.
fn ranks(dir: &Path, count: usize, flags: &str) -> Command {
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

#[track_caller]
fn trains(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    output
}

fn weights(checkpoint: &Path) -> HashMap<String, Tensor> {
    let names = ["adapter_model.safetensors", "model.safetensors"];
    let file = names.map(|name| checkpoint.join(name));
    let file = file.iter().find(|file| file.is_file()).unwrap();
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

/// Loss and norm of each step; of one that was made again, after a run was stopped, the newest.
fn newest(run: &Path) -> BTreeMap<u64, (f64, f64)> {
    let steps = losses(run).into_iter();
    steps
        .map(|(step, loss, norm)| (step, (loss, norm)))
        .collect()
}

/// Whether two runs had the same losses and ended with the same weights, but for the order in which numbers are added.
#[track_caller]
fn same(name: &str, one: &Path, several: &Path) {
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
    assert_eq!(checkpoints(one), checkpoints(several), "{name}");
    let last = format!("checkpoint-{}", checkpoints(one).pop().unwrap());
    let (expected, found) = (weights(&one.join(&last)), weights(&several.join(&last)));
    assert_eq!(expected.len(), found.len(), "{name}");
    for (tensor, expected) in &expected {
        let gap = (expected - &found[tensor]).unwrap().abs().unwrap();
        let gap: f32 = gap
            .flatten_all()
            .unwrap()
            .max(0)
            .unwrap()
            .to_scalar()
            .unwrap();
        assert!(gap < 2e-5, "{name}: {tensor} differs by {gap}");
    }
}

#[test]
fn several_ranks_train_what_one_process_trains() {
    let dir = tempfile::tempdir().unwrap();
    for (name, kind) in KINDS {
        let run = |count: usize| {
            dir.path()
                .join(format!("{name} {count}").replace([' ', ','], "-"))
        };
        trains(&mut ranks(
            &run(1),
            1,
            &format!("{kind} --gradient_accumulation_steps 4"),
        ));
        for (count, accumulation) in [(2, 2), (4, 1)] {
            let flags = format!("{kind} --gradient_accumulation_steps {accumulation}");
            trains(&mut ranks(&run(count), count, &flags));
            same(&format!("{name}, {count} ranks"), &run(1), &run(count));
        }
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let (one, several) = (dir.path().join("one"), dir.path().join("several"));
    trains(&mut ranks(
        &one,
        1,
        "--gradient_accumulation_steps 12 --max_steps 6",
    ));
    for (count, accumulation, steps) in [(4, 3, 2), (2, 6, 4), (3, 4, 6)] {
        let resume = match steps {
            2 => String::new(),
            steps => format!(
                "--resume_from_checkpoint {}",
                several.join(format!("checkpoint-{}", steps - 2)).display()
            ),
        };
        let flags = format!("--gradient_accumulation_steps {accumulation} --max_steps 6 {resume}");
        let mut command = ranks(&several, count, &flags);
        if steps < 6 {
            // Stopped after its steps, as by a signal.
            let child = start(&mut command);
            wait_for(&several.join(format!("checkpoint-{steps}")));
            stop(child);
            remove_after(&several, steps);
        } else {
            trains(&mut command);
        }
    }
    same("4, 2, 3 ranks", &one, &several);
}

#[test]
fn another_global_batch_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    trains(&mut ranks(
        &run,
        2,
        "--gradient_accumulation_steps 2 --max_steps 2",
    ));
    let resume = run.join("checkpoint-2");
    let flags = format!(
        "--gradient_accumulation_steps 2 --resume_from_checkpoint {}",
        resume.display()
    );
    let output = ranks(&run, 3, &flags).output().unwrap();
    assert!(!output.status.success());
    let said = said(&output);
    assert!(
        said.contains("examples_per_step: the checkpoint has 4, this run 6")
            && said.contains("1 x 2 x 2 and 1 x 2 x 3; 4 with per_device_train_batch_size 1 are 1 rank with 4, 2 ranks with 2, 4 ranks with 1"),
        "{said}"
    );
}

#[test]
fn a_rank_that_is_killed_ends_all_and_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let reference = dir.path().join("reference");
    let flags = "--gradient_accumulation_steps 2 --max_steps 12";
    trains(&mut ranks(&reference, 2, flags));
    let mut random = Random::new(15);
    for round in 0..times(2) {
        let run = dir.path().join(format!("run-{round}"));
        let mut child = start(&mut ranks(&run, 2, flags));
        wait_for(&run.join("checkpoint-1"));
        std::thread::sleep(Duration::from_millis(random.below(800)));
        let killed = kill_a_rank(&run, random.below(2) as usize);
        let since = Instant::now();
        let status = child.wait().unwrap();
        assert!(
            since.elapsed() < Duration::from_secs(30),
            "{:?}",
            since.elapsed()
        );
        // One that was about to end anyway may have ended well.
        let complete = run.join("checkpoint-12").exists();
        assert!(!killed || !status.success() || complete);
        let resumed = trains(&mut ranks(
            &run,
            2,
            &format!("{flags} --resume_from_checkpoint true"),
        ));
        assert!(said(&resumed).contains("run:") || !killed);
        same(&format!("killed in round {round}"), &reference, &run);
    }
}

#[test]
fn a_signal_saves_once_and_ends_all() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let child = start(&mut ranks(
        &run,
        2,
        "--gradient_accumulation_steps 2 --max_steps 500 --save_steps 400",
    ));
    wait_for_line(&run);
    let status = stop(child);
    assert_eq!(status, Some(130));
    assert_eq!(checkpoints(&run).len(), 1);
}

fn start(command: &mut Command) -> Child {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.spawn().unwrap()
}

fn wait_for(path: &Path) {
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

fn wait_for_line(run: &Path) {
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

/// Sends SIGTERM to the launcher and waits for it.
fn stop(mut child: Child) -> Option<i32> {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap().code()
}

/// Removes the checkpoints after this step, and what the log has of them.
fn remove_after(run: &Path, step: u64) {
    for other in checkpoints(run).into_iter().filter(|other| *other > step) {
        std::fs::remove_dir_all(run.join(format!("checkpoint-{other}"))).unwrap();
    }
}

/// Kills one of the ranks of a run, found by its command line; whether there was one.
fn kill_a_rank(run: &Path, which: usize) -> bool {
    let mut ranks: Vec<i32> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            let of_run = words.contains(&run.as_os_str().as_encoded_bytes());
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let rank = environment
                .split(|byte| *byte == 0)
                .any(|pair| pair.starts_with(b"OMPI_COMM_WORLD_RANK="));
            of_run && rank
        })
        .collect();
    ranks.sort_unstable();
    let Some(&pid) = ranks.get(which) else {
        return false;
    };
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
}

#[test]
fn a_callback_that_hangs_ends_all_after_the_limit_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = format!("{DLL_PREFIX}hostile_plugin{DLL_SUFFIX}");
    let plugin = std::env::current_exe().unwrap().with_file_name(plugin);
    let flags = format!(
        "--gradient_accumulation_steps 2 --plugin {} --callbacks hangs --ddp_timeout 3",
        plugin.display()
    );
    let since = Instant::now();
    let output = ranks(&dir.path().join("run"), 2, &flags).output().unwrap();
    assert!(!output.status.success());
    assert!(
        since.elapsed() < Duration::from_secs(40),
        "{:?}",
        since.elapsed()
    );
    let said = said(&output);
    for part in [
        "rank 0",
        "it is at step 2",
        "ddp_timeout is 3 s",
        "checkpoint-1",
    ] {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
}
