//! Flags of recipes that were written for ms-swift and transformers, with the real binary on a tiny model.

mod common;

use common::{fails, folder, works};
use serde_json::Value;
use std::fs;
use std::path::Path;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// A short run; gives what it printed and the lines of its log that have a loss.
fn sft(name: &str, flags: &str) -> (String, Vec<Value>) {
    let dir = folder(name);
    let said = works(&format!(
        "sft --model {TINY}/model_mxfp4 --dataset {TINY}/chat_train.jsonl --current_date 2025-08-05 --device cpu \
         --logging_steps 1 --learning_rate 1e-3 --add_version false --plot false --output_dir {} {flags}",
        dir.display()
    ));
    let log = fs::read_to_string(dir.join("logging.jsonl")).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    (
        said,
        lines.filter(|line| line.get("loss").is_some()).collect(),
    )
}

fn losses(lines: &[Value]) -> Vec<f64> {
    lines
        .iter()
        .map(|line| line["loss"].as_f64().unwrap())
        .collect()
}

#[test]
fn noise_on_the_embeddings_is_there_and_repeats() {
    let run = |name: &str, flags: &str| {
        losses(
            &sft(
                name,
                &format!("--max_steps 2 --gradient_accumulation_steps 2 {flags}"),
            )
            .1,
        )
    };
    let quiet = run("neftune_none", "");
    assert_eq!(run("neftune_zero", "--neftune_noise_alpha 0"), quiet);
    let noisy = run("neftune", "--neftune_noise_alpha 50");
    assert!((noisy[0] - quiet[0]).abs() > 1e-4, "{noisy:?}, {quiet:?}");
    assert_eq!(run("neftune_again", "--neftune_noise_alpha 50"), noisy);
    let other = run("neftune_seed", "--neftune_noise_alpha 50 --seed 7");
    assert_ne!(other[0], noisy[0]);
}

/// An example has the same dropout and the same noise in whatever micro-batch it comes, also in a pack.
#[test]
fn random_numbers_go_by_the_example_and_not_by_the_micro_batch() {
    let random = "--max_steps 3 --lora_dropout 0.3 --neftune_noise_alpha 20";
    for (name, data) in [("rows", ""), ("packs", "--packing true --max_length 256")] {
        let run = |size: usize, steps: usize| {
            let split = format!(
                "--per_device_train_batch_size {size} --gradient_accumulation_steps {steps}"
            );
            losses(
                &sft(
                    &format!("keys_{name}_{size}"),
                    &format!("{random} {data} {split}"),
                )
                .1,
            )
        };
        let together = run(4, 1);
        for (size, steps) in [(1, 4), (2, 2)] {
            let apart = run(size, steps);
            assert_eq!(apart.len(), together.len());
            for (apart, together) in apart.iter().zip(&together) {
                assert!(
                    (apart - together).abs() < 1e-5,
                    "{name}, {size} x {steps}: {apart}, {together}"
                );
            }
        }
    }
}

#[test]
fn an_epoch_without_its_last_micro_batch() {
    let flags =
        "--num_train_epochs 2 --per_device_train_batch_size 3 --gradient_accumulation_steps 1";
    let steps = |name: &str, flags: &str| sft(name, flags).1.len();
    assert_eq!(steps("keep_last", flags), 6);
    assert_eq!(
        steps("drop_last", &format!("{flags} --dataloader_drop_last true")),
        4
    );
}

#[test]
fn the_swarm_of_flags_of_published_recipes() {
    let (said, lines) = sft(
        "published",
        "--deepspeed zero3 --max_steps 2 --dataloader_num_workers 4 --dataloader_prefetch_factor 2 \
         --dataloader_persistent_workers true --lazy_tokenize true --load_data_args false --use_logits_to_keep true \
         --gradient_checkpointing_kwargs {\"use_reentrant\":false} --ddp_timeout 18000000 --ignore_args_error true \
         --attn_impl flash_attention_2 --use_liger_kernel true --model_author a --model_name b --fp16 false \
         --warmup_steps 0.5 --lr_scheduler_type cosine_warmup_with_min_lr --lr_scheduler_kwargs {\"min_lr_rate\":0.1}",
    );
    assert!(
        said.contains("note: deepspeed zero3: one process trains"),
        "{said}"
    );
    for flag in ["dataloader_prefetch_factor", "ignore_args_error", "fp16"] {
        assert!(
            said.contains(&format!("note: {flag}: nothing to do here: ")),
            "{flag}: {said}"
        );
    }
    let rates: Vec<f64> = lines
        .iter()
        .map(|line| line["learning_rate"].as_f64().unwrap())
        .collect();
    assert_eq!(rates, [1e-3, 1e-4], "one step of warm-up, then the least");
}

#[test]
fn what_would_change_the_run_is_an_error() {
    let data = format!("sft --model {TINY}/model_mxfp4 --dataset {TINY}/chat_train.jsonl");
    for (flags, says) in [
        (
            "--label_smoothing_factor 0.1",
            "--label_smoothing_factor is 0.1: labels are not smoothed",
        ),
        ("--optim lion_8bit", "adamw_8bit"),
        (
            "--optim sgd --adam_beta1 0.8",
            "optimizer sgd has no option beta1",
        ),
        ("--warmup_steps 2.5", "expected a whole number of steps"),
    ] {
        let status = match flags.starts_with("--optim") {
            true => 1,
            false => 2,
        };
        fails(&format!("{data} {flags} --device cpu"), status, &[says]);
    }
}

/// The plugin guide's own mixture: a component on the command line over a file with shorthands of another.
#[test]
fn components_of_the_command_line_over_a_file() {
    let dir = folder("over_a_file");
    let file = dir.join("run.toml");
    let text = "weight_decay = 0.01\nadam_beta1 = 0.8\nlr_scheduler_type = \"cosine_with_min_lr\"\n\
                lr_scheduler_kwargs = { min_lr_rate = 0.1 }\ncurrent_date = 2025-08-05\n\
                callbacks = [\"early_stop\", { name = \"graceful_exit\" }]\n";
    fs::write(&file, text).unwrap();
    let said = works(&format!(
        "sft --config {} --model {TINY}/model_mxfp4 --dataset {TINY}/chat_train.jsonl --device cpu --max_steps 1 \
         --optimizer sgd --optimizer.momentum 0.9 --lr_scheduler constant --callbacks.early_stop.interval 3 \
         --plot false --add_version false --output_dir {}",
        file.display(),
        dir.display()
    ));
    for part in [
        "note: adam_beta1: not used: optimizer sgd has no option beta1",
        "run.toml, line 3, key lr_scheduler_type: not used, because --lr_scheduler is given",
        "run.toml, line 4, key lr_scheduler_kwargs: not used",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let args: Value =
        serde_json::from_str(&fs::read_to_string(dir.join("args.json")).unwrap()).unwrap();
    assert_eq!(args["current_date"], "2025-08-05");
    assert_eq!(args["callbacks"][0]["interval"], 3);
    assert!(Path::new(args["output_dir"].as_str().unwrap()).is_absolute());
}
