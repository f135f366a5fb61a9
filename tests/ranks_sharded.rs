//! The optimizer's work spread over ranks, and what is found where ranks differ. On the CPU they talk through MPI, so that these
//! tests need the feature `mpi`: `cargo test --features mpi --test ranks_sharded`.
#![cfg(all(unix, feature = "mpi"))]

mod common;

use candle_core::{Device, Tensor};
use common::training::{TINY, checkpoints, greatest_gap, losses, said, sft};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

/// `apus sft` on the tiny model, by this many ranks, 12 examples a step.
fn run(dir: &Path, count: usize, flags: &str) -> Command {
    let flags = format!(
        "--model {TINY}/model_mxfp4 --per_device_train_batch_size 1 --gradient_accumulation_steps {} --max_steps 4 \
         --save_steps 1 {flags}",
        12 / count
    );
    let mut command = sft(dir, &flags);
    command
        .env("NPROC_PER_NODE", count.to_string())
        .env("RAYON_NUM_THREADS", "1");
    command
}

#[track_caller]
fn trains(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

#[track_caller]
fn fails(output: &Output, parts: &[&str]) {
    let said = said(output);
    assert!(!output.status.success(), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
}

/// The flag of a plugin that `cargo test` built beside this binary.
fn plugin(name: &str) -> String {
    let path = common::library(name);
    format!("--plugin {}", path.display())
}

/// Optimizers of libraries: one that shows other weights than it trains, and one that keeps state of its own and sees groups
/// besides. Both are evaluated on the way.
fn of_plugins() -> [String; 2] {
    let evaluated = format!("--val_dataset {TINY}/chat_train.jsonl#4 --eval_steps 2");
    let groups = r#"--optimizer.groups [{"params":"lora_B","factor":3}]"#;
    [
        format!(
            "--optimizer schedule_free --learning_rate 0.1 {evaluated} {}",
            plugin("schedule_free")
        ),
        format!(
            "--optimizer counts {groups} {evaluated} {}",
            plugin("asking_plugin")
        ),
    ]
}

/// A file of tensors of a checkpoint.
fn tensors(checkpoint: &Path, file: &str) -> BTreeMap<String, Tensor> {
    let tensors = candle_core::safetensors::load(checkpoint.join(file), &Device::Cpu).unwrap();
    tensors.into_iter().collect()
}

/// Whether two runs had the same losses and norms, and their last checkpoints the same tensors, but for the order in which
/// numbers are added.
#[track_caller]
fn same(name: &str, one: &Path, other: &Path) {
    assert_eq!(checkpoints(one), checkpoints(other), "{name}");
    let (expected, found) = (losses(one), losses(other));
    assert_eq!(expected.len(), found.len(), "{name}");
    for ((step, loss, norm), (_, found_loss, found_norm)) in expected.into_iter().zip(found) {
        let gaps = [loss - found_loss, (norm - found_norm) / norm.max(1.0)];
        assert!(
            gaps.iter().all(|gap| gap.abs() < 1e-5),
            "{name}, step {step}: {gaps:?}"
        );
    }
    let last = format!("checkpoint-{}", checkpoints(one).pop().unwrap());
    for file in ["adapter_model.safetensors", "optimizer.safetensors"] {
        let (expected, found) = (
            tensors(&one.join(&last), file),
            tensors(&other.join(&last), file),
        );
        assert!(expected.keys().eq(found.keys()), "{name}, {file}");
        for (tensor, expected) in &expected {
            assert_eq!(expected.dims(), found[tensor].dims(), "{name}: {tensor}");
            let largest = |x: Tensor| -> f32 {
                let x = x.abs().unwrap().flatten_all().unwrap();
                x.max(0).unwrap().to_scalar().unwrap()
            };
            let gap = largest((expected - &found[tensor]).unwrap());
            let bound = 2e-5 * largest(expected.clone()).max(1.0);
            assert!(gap < bound, "{name}, {file}: {tensor} differs by {gap}");
        }
    }
}

/// Each optimizer by two and three ranks against the same ranks that each update everything, and against one process.
#[test]
fn sharded_optimizers_train_as_whole_ones() {
    let dir = tempfile::tempdir().unwrap();
    let muon = format!("--optimizer muon {}", plugin("muon"));
    let [schedule_free, counts] = of_plugins();
    let kinds = [
        ("adamw", "--optim adamw_torch --lora_dropout 0.1"),
        ("lion", "--optim lion --max_grad_norm 0.1"),
        ("sgd", "--optimizer sgd --optimizer.momentum 0.9"),
        ("muon", &muon),
        ("schedule_free_adamw", "--optim schedule_free_adamw"),
        ("galore", "--optim galore --galore_rank 3"),
        ("schedule_free", &schedule_free),
        ("counts", &counts),
        ("adamw-base", "--optim adamw_torch --shard_base true"),
    ];
    for (name, flags) in kinds {
        let at = |what: &str| dir.path().join(format!("{name}-{what}"));
        trains(&mut run(
            &at("one"),
            1,
            &flags.replace("--shard_base true", ""),
        ));
        for (count, deepspeed) in [(2, "zero1"), (3, "zero2")] {
            let (whole, sharded) = (
                at(&format!("whole-{count}")),
                at(&format!("sharded-{count}")),
            );
            trains(&mut run(
                &whole,
                count,
                &flags.replace("--shard_base true", ""),
            ));
            let said = trains(&mut run(
                &sharded,
                count,
                &format!("{flags} --deepspeed {deepspeed}"),
            ));
            assert!(!said.contains("is not sharded"), "{said}");
            same(&format!("{name}, {count} ranks"), &whole, &sharded);
            same(
                &format!("{name}, one process and {count} ranks"),
                &at("one"),
                &sharded,
            );
        }
    }
}

/// A run that is repeated gives the same bits.
#[test]
fn a_sharded_run_repeats_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let weights = |name: &str| {
        let at = dir.path().join(name);
        trains(&mut run(&at, 3, "--deepspeed zero2 --deterministic true"));
        let files = ["adapter_model.safetensors", "optimizer.safetensors"];
        files.map(|file| std::fs::read(at.join("checkpoint-4").join(file)).unwrap())
    };
    assert!(weights("first") == weights("second"));
}

/// Two ranks, sharded, then three that are not, then one process, then four, sharded, against one process all the way.
#[test]
fn a_sharded_run_goes_on_with_other_ranks_and_the_reverse() {
    let dir = tempfile::tempdir().unwrap();
    let [_, counts] = of_plugins();
    for (name, kind) in [("adamw", ""), ("counts", &counts)] {
        let at = |what: &str| dir.path().join(format!("{name}-{what}"));
        let (one, several) = (at("one"), at("several"));
        trains(&mut run(&one, 1, kind));
        for (step, count, flags) in [
            (1, 2, "--deepspeed zero2"),
            (2, 3, ""),
            (3, 1, "--deepspeed zero2"),
            (4, 4, "--deepspeed zero1"),
        ] {
            let resume = match step {
                1 => String::new(),
                step => format!(
                    "--resume_from_checkpoint {}",
                    several.join(format!("checkpoint-{}", step - 1)).display()
                ),
            };
            // What the schedule makes of the rest stays as it is; the run is cut short.
            trains(&mut run(
                &several,
                count,
                &format!("{kind} {flags} {resume}"),
            ));
            for later in checkpoints(&several)
                .into_iter()
                .filter(|later| *later > step)
            {
                std::fs::remove_dir_all(several.join(format!("checkpoint-{later}"))).unwrap();
            }
        }
        let last = |run: &Path, file: &str| tensors(&run.join("checkpoint-4"), file);
        for file in ["adapter_model.safetensors", "optimizer.safetensors"] {
            let (expected, found) = (last(&one, file), last(&several, file));
            assert!(expected.keys().eq(found.keys()), "{name}, {file}");
            for (tensor, expected) in expected {
                let gap = greatest_gap(&expected, &found[&tensor]);
                assert!(gap < 2e-5, "{name}, {file}: {tensor} differs by {gap}");
            }
        }
    }
}

/// Passes that are made again are those of all ranks, whichever micro-batches each has; every rank keeps all of the state.
#[test]
fn several_ranks_make_the_passes_of_a_step_again() {
    let dir = tempfile::tempdir().unwrap();
    // With an eps above the rounding of sums, which AdamW would divide by itself where a gradient is almost 0.
    let sam = "--optimizer sam --optimizer.rho 0.5 --optimizer.eps 1e-4";
    let sam = format!("{sam} {}", plugin("sam"));
    let at = |what: &str| dir.path().join(what);
    trains(&mut run(&at("one"), 1, &sam));
    for (name, count, flags) in [
        ("two", 2, ""),
        ("three", 3, "--shard_base true"),
        ("four", 4, "--deepspeed zero2"),
    ] {
        let said = trains(&mut run(&at(name), count, &format!("{sam} {flags}")));
        same(name, &at("one"), &at(name));
        let is_told = said.contains("optimizer sam") && said.contains("is not sharded");
        assert_eq!(is_told, name == "four", "{said}");
    }
    // Three ranks went two steps, and one process goes on.
    let rest = at("rest");
    let checkpoint = at("three").join("checkpoint-2");
    trains(&mut run(
        &rest,
        1,
        &format!("{sam} --resume_from_checkpoint {}", checkpoint.display()),
    ));
    let last = |run: &Path| tensors(&run.join("checkpoint-4"), "adapter_model.safetensors");
    let found = last(&rest);
    for (tensor, expected) in last(&at("one")) {
        let gap = greatest_gap(&expected, &found[&tensor]);
        assert!(gap < 2e-5, "{tensor} differs by {gap}");
    }
}

#[test]
fn an_optimizer_that_needs_all_parameters_is_not_sharded() {
    let dir = tempfile::tempdir().unwrap();
    let flags = format!("--optimizer all_at_once {}", plugin("hostile_plugin"));
    let (whole, sharded) = (dir.path().join("whole"), dir.path().join("sharded"));
    trains(&mut run(&whole, 2, &flags));
    let said = trains(&mut run(&sharded, 2, &format!("{flags} --deepspeed zero2")));
    assert!(
        said.contains("all_at_once") && said.contains("is not sharded"),
        "{said}"
    );
    let weights = |run: &Path| {
        let file = run.join("checkpoint-4/adapter_model.safetensors");
        std::fs::read(file).unwrap()
    };
    assert!(weights(&whole) == weights(&sharded));
}

/// The step of a plugin that one rank cannot make is made by none, and what was trained before is saved.
#[test]
fn a_step_that_fails_on_one_rank_is_taken_back_on_all() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    let flags = format!(
        "--optimizer refuses_one --lr_scheduler_type constant --deepspeed zero2 --save_steps 1000 {}",
        plugin("hostile_plugin")
    );
    let output = run(&run_dir, 2, &flags).output().unwrap();
    fails(
        &output,
        &[
            "rank ",
            "no step of ",
            "v_proj.lora_B",
            "The state after step 2 is saved",
        ],
    );
    assert_eq!(checkpoints(&run_dir), [2]);
    // It is the state after step 2 and not a part of step 3.
    let reference = dir.path().join("reference");
    let flags = format!("{flags} --max_steps 2 --save_steps 2");
    trains(&mut run(&reference, 2, &flags));
    let last = |run: &Path| tensors(&run.join("checkpoint-2"), "adapter_model.safetensors");
    let found = last(&run_dir);
    for (name, expected) in last(&reference) {
        let gap = (&expected - &found[&name]).unwrap().abs().unwrap();
        let gap: f32 = gap.sum_all().unwrap().to_scalar().unwrap();
        assert_eq!(gap, 0.0, "{name}");
    }
}

#[test]
fn an_optimizer_that_differs_by_process_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    let flags = format!("--optimizer by_process {}", plugin("hostile_plugin"));
    let output = run(&run_dir, 2, &flags).output().unwrap();
    fails(
        &output,
        &[
            "after step 3, ",
            "layers.1.self_attn.v_proj.lora_B.weight is not the same on all ranks",
            "rank 0: ",
            "rank 1: ",
            "optimizer by_process of plugin",
            "The newest checkpoint is",
            "checkpoint-2",
        ],
    );
    assert_eq!(checkpoints(&run_dir), [1, 2]);
}
