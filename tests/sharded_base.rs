//! Ranks that keep a part of the frozen base each train what ranks with the whole base train, bit for bit: `cargo test --features
//! mpi --test sharded_base`.
#![cfg(all(unix, feature = "mpi"))]

mod common;

use candle_core::{Device, Tensor};
use common::training::{TINY, checkpoints, log, losses, said, sft};
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

/// Kinds of run: what is trained, and on which form of the model.
const KINDS: [(&str, &str, &str); 10] = [
    ("packed experts", "model_mxfp4", ""),
    ("dense experts", "model_bf16", "--lora_dropout 0.1"),
    (
        "unpacked experts",
        "model_mxfp4",
        "--experts_dtype bf16 --router_aux_loss_coef 0.01",
    ),
    (
        "adapters on experts",
        "model_mxfp4",
        "--target_parameters 1.mlp.experts.gate_up_proj 2.mlp.experts.down_proj --router_aux_loss_coef 0.01",
    ),
    (
        "dora",
        "model_mxfp4",
        "--use_dora true --neftune_noise_alpha 5",
    ),
    (
        "modules trained whole",
        "model_mxfp4",
        "--modules_to_save lm_head --gradient_checkpointing_skip_layers 2",
    ),
    (
        "streamed, one micro-batch a step",
        "model_mxfp4",
        "--streaming true --shuffle_buffer_size 4 --gradient_accumulation_steps 1",
    ),
    (
        "a rank without a micro-batch",
        "model_mxfp4",
        "--gradient_accumulation_steps 1 --router_aux_loss_coef 0.01",
    ),
    (
        "state sharded, too",
        "model_mxfp4",
        "--deepspeed zero3 --target_parameters 1.mlp.experts.gate_up_proj",
    ),
    (
        "evaluated, with answers",
        "model_mxfp4",
        "--split_dataset_ratio 0.3 --per_device_eval_batch_size 1 --eval_steps 2 --load_best_model_at_end true \
         --sample_prompts Hello --max_new_tokens 4 --predict_with_generate true --metrics token_acc rouge chrf",
    ),
];

/// `apus sft` on the tiny model, by this many ranks.
fn ranks(dir: &Path, count: usize, form: &str, flags: &str) -> Command {
    let mut command = sft(
        dir,
        &format!(
            "--model {TINY}/{form} --per_device_train_batch_size 1 --gradient_accumulation_steps 2 --max_steps 4 \
             --save_steps 2 {flags}"
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

fn weights(run: &Path) -> HashMap<String, Tensor> {
    let last = format!("checkpoint-{}", checkpoints(run).pop().unwrap());
    let file = run.join(last).join("adapter_model.safetensors");
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

/// Losses, norms and the last weights of two runs are the same bits.
#[track_caller]
fn same(name: &str, whole: &Path, sharded: &Path) {
    assert_eq!(losses(whole), losses(sharded), "{name}");
    let evaluated = |run: &Path| -> Vec<_> {
        let log = log(run).into_iter();
        let names = ["eval_loss", "eval_token_acc", "eval_rouge-l", "eval_chrf"];
        log.filter_map(|line| {
            line.get("eval_loss")
                .map(|_| names.map(|name| line.get(name).cloned()))
        })
        .collect()
    };
    assert_eq!(evaluated(whole), evaluated(sharded), "{name}");
    let (expected, found) = (weights(whole), weights(sharded));
    assert_eq!(expected.len(), found.len(), "{name}");
    for (tensor, expected) in &expected {
        let bits = |tensor: &Tensor| -> Vec<u32> {
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            values.into_iter().map(f32::to_bits).collect()
        };
        assert!(
            bits(expected) == bits(&found[tensor]),
            "{name}: {tensor} differs"
        );
    }
}

#[test]
fn a_sharded_base_trains_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    for (name, form, flags) in KINDS {
        for count in [2, 3] {
            let run = |base: &str| {
                let run = format!("{name} {count} {base}").replace([' ', ','], "-");
                dir.path().join(run)
            };
            for base in ["false", "true"] {
                let flags = format!("{flags} --shard_base {base}");
                let said = said(&trains(&mut ranks(&run(base), count, form, &flags)));
                let spread = said.contains(&format!("base: sharded over {count} ranks"));
                assert_eq!(spread, base == "true", "{name}: {said}");
                if name.contains("answers") {
                    assert!(said.contains("Hello"), "{said}");
                }
            }
            same(
                &format!("{name}, {count} ranks"),
                &run("false"),
                &run("true"),
            );
        }
    }
}

#[test]
fn a_run_goes_on_with_a_sharded_base() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, sharded) = (dir.path().join("whole"), dir.path().join("sharded"));
    let flags = "--save_only_model false --max_steps 4";
    trains(&mut ranks(&whole, 2, "model_mxfp4", flags));
    trains(&mut ranks(&sharded, 2, "model_mxfp4", flags));
    for run in [&whole, &sharded] {
        std::fs::remove_dir_all(run.join("checkpoint-4")).unwrap();
    }
    let resume = |run: &Path, base: &str| {
        let checkpoint = run.join("checkpoint-2");
        format!(
            "{flags} --shard_base {base} --resume_from_checkpoint {}",
            checkpoint.display()
        )
    };
    trains(&mut ranks(
        &whole,
        2,
        "model_mxfp4",
        &resume(&whole, "false"),
    ));
    trains(&mut ranks(
        &sharded,
        2,
        "model_mxfp4",
        &resume(&sharded, "true"),
    ));
    same("resumed", &whole, &sharded);
}

#[test]
fn a_single_process_is_a_group_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, sharded) = (dir.path().join("whole"), dir.path().join("sharded"));
    trains(&mut ranks(&whole, 1, "model_mxfp4", ""));
    let said = said(&trains(&mut ranks(
        &sharded,
        1,
        "model_mxfp4",
        "--shard_base true",
    )));
    assert!(said.contains("base: sharded over 1 rank,"), "{said}");
    same("one rank", &whole, &sharded);
}

#[test]
fn a_loss_that_is_not_finite_says_what_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let flags = "--shard_base true --learning_rate 1e20 --max_grad_norm 0";
    let output = ranks(&dir.path().join("run"), 2, "model_mxfp4", flags)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = said(&output);
    for part in ["is not finite", "shard_base", "micro-batch"] {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
}

/// One process plans for all ranks, and starts none.
#[test]
fn a_dry_run_plans_for_all_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let dry = |model: &str, flags: &str| {
        let flags = format!("--dry_run true --model {model} --tokenizer {TINY}/model_bf16 {flags}");
        let output = trains(sft(dir.path(), &flags).env("NPROC_PER_NODE", "4"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let small = dry(&format!("{TINY}/model_mxfp4"), "--deepspeed zero3");
    for part in [
        "of each of 4 ranks",
        "base: whole on every card",
        "with the base sharded: about",
    ] {
        assert!(small.contains(part), "{part:?} not in:\n{small}");
    }
    let large = dry("synthetic:gpt-oss-120b", "--shard_base true");
    for part in [
        "weights, this card's part",
        "gathered at a time",
        "base: sharded over 4 ranks",
        "with the base whole: about",
    ] {
        assert!(large.contains(part), "{part:?} not in:\n{large}");
    }
}
