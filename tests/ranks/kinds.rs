//! Kinds of training, each by one process and by several.

use crate::common::training::{TINY, said};
use crate::runs::{ranks, remove_after, same, start, stop, trains, wait_for};
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};

/// Kinds of run: what is trained, on which data.
const KINDS: [(&str, &str); 17] = [
    ("lora", ""),
    ("dropout", "--lora_dropout 0.1 --seed 7"),
    ("dora, noise", "--use_dora true --neftune_noise_alpha 5"),
    (
        "experts, auxiliary loss",
        "--target_parameters 1.mlp.experts.gate_up_proj 2.mlp.experts.down_proj --router_aux_loss_coef 0.01",
    ),
    ("full", "--train_type full --optim lion"),
    ("adapter", "--train_type adapter --adapter_length 4"),
    ("reft", "--train_type reft --reft_rank 2"),
    (
        "ia3 of experts",
        "--train_type ia3 --target_modules experts v_proj --router_aux_loss_coef 0.01",
    ),
    (
        "packed",
        "--max_length 256 --packing true --enable_channel_loss true",
    ),
    ("by length", "--group_by_length true"),
    (
        "by losses",
        "--plugin {CURRICULUM} --sampler easy_first --num_train_epochs 3",
    ),
    (
        "by example",
        "--per_device_train_batch_size 2 --lora_dropout 0.1 --neftune_noise_alpha 5 --enable_channel_loss true",
    ),
    (
        "streamed and packed",
        "--streaming true --max_length 256 --packing true --shuffle_buffer_size 4",
    ),
    (
        "two datasets, mixed",
        "--dataset {TINY}/chat_train.jsonl {TINY}/chat_train.jsonl#3 --interleave_prob 0.6 0.4",
    ),
    (
        "evaluated",
        "--val_dataset {TINY}/chat_train.jsonl --per_device_eval_batch_size 3 --eval_steps 2",
    ),
    ("streamed", "--streaming true --shuffle_buffer_size 4"),
    (
        "best",
        "--split_dataset_ratio 0.25 --per_device_eval_batch_size 2 --eval_steps 1 --load_best_model_at_end true",
    ),
];

#[test]
fn several_ranks_train_what_one_process_trains() {
    let dir = tempfile::tempdir().unwrap();
    let curriculum = format!("{DLL_PREFIX}curriculum{DLL_SUFFIX}");
    let curriculum = std::env::current_exe().unwrap().with_file_name(curriculum);
    for (name, kind) in KINDS {
        let kind = kind
            .replace("{TINY}", TINY)
            .replace("{CURRICULUM}", &curriculum.display().to_string());
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
