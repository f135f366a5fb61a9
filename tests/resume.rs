//! Runs that go on from a checkpoint: the same run goes on exactly, another one is refused with what can be done.

mod common;

use common::training::{TINY, by_step, copy, losses, refuses, sft, trains, weights};
use std::fs;
use std::path::{Path, PathBuf};

/// A run of four steps of four examples, saved at each.
const FOUR: &str = "--gradient_accumulation_steps 4 --max_steps 4 --save_steps 1";

fn model() -> String {
    format!("--model {TINY}/model_mxfp4")
}

/// A run in `whole` below `home`, and the flags that go on from its second checkpoint.
fn four_steps(home: &Path) -> (PathBuf, String) {
    let whole = home.join("whole");
    let flags = format!("{} {FOUR}", model());
    trains(&whole, &flags);
    let from = whole.join("checkpoint-2");
    (
        whole,
        format!("{flags} --resume_from_checkpoint {}", from.display()),
    )
}

#[test]
fn a_resumed_run_continues_bit_for_bit() {
    let home = tempfile::tempdir().unwrap();
    let [whole, rest] = ["whole", "rest"].map(|name| home.path().join(name));
    let flags = format!(
        "{} --lora_dropout 0.1 --neftune_noise_alpha 5 --max_steps 8 --gradient_accumulation_steps 3 --save_steps 3",
        model()
    );
    trains(&whole, &flags);
    let checkpoint = whole.join("checkpoint-3");
    let resume = format!("{flags} --resume_from_checkpoint {}", checkpoint.display());
    trains(&rest, &resume);
    let (all, later) = (losses(&whole), losses(&rest));
    assert_eq!((all.len(), later.len()), (8, 5));
    assert_eq!(all[3..], later);
    assert_eq!(
        weights(&whole.join("checkpoint-8")),
        weights(&rest.join("checkpoint-8"))
    );

    fs::remove_file(checkpoint.join("optimizer.safetensors")).unwrap();
    let beside = format!("there is also {}", whole.join("checkpoint-8").display());
    refuses(
        &rest,
        &resume,
        &["optimizer.safetensors is missing", &beside],
    );
}

/// Each setting that fixes the place in the data, or how the run learns: refused, with its words.
#[test]
fn another_run_is_refused_with_what_differs() {
    let home = tempfile::tempdir().unwrap();
    let (_, resume) = four_steps(home.path());
    let other = home.path().join("other");
    let rows = fs::read_to_string(format!("{TINY}/chat_train.jsonl")).unwrap();
    let edited = home.path().join("edited.jsonl");
    fs::write(&edited, rows.replacen("harbour", "coastal", 1)).unwrap();
    let edited = format!("--dataset {}", edited.display());
    let base = home.path().join("base");
    copy(Path::new(&format!("{TINY}/model_mxfp4")), &base);
    flip_a_weight(&base);
    let base = format!("--model {}", base.display());
    let cases: &[(&str, &[&str])] = &[
        (
            "--gradient_accumulation_steps 3",
            &[
                "examples_per_step: the checkpoint has 4, this run 3",
                "1 x 4 x 1 and 1 x 3 x 1; 4 with per_device_train_batch_size 1 are 1 rank with 4",
            ],
        ),
        (
            "--per_device_train_batch_size 2",
            &["examples_per_step: the checkpoint has 4, this run 8"],
        ),
        (
            "--data_seed 7",
            &["data_seed: the checkpoint has 42, this run 7"],
        ),
        (
            "--train_dataloader_shuffle false",
            &["sampler: the checkpoint has random, this run sequential"],
        ),
        (
            "--group_by_length true",
            &["sampler: the checkpoint has random, this run group_by_length"],
        ),
        (
            "--dataset_shuffle false",
            &[
                "data: the checkpoint has examples 8",
                "dataset_shuffle was true, is false",
            ],
        ),
        (
            "--split_dataset_ratio 0.25",
            &[
                "this run examples 6",
                "split_dataset_ratio was 0.0, is 0.25",
            ],
        ),
        (
            "--max_length 256 --packing true",
            &[
                "data:",
                "packing was false, is true",
                "max_length was null, is 256",
            ],
        ),
        ("--loss_scale last_round", &["data:", "loss_scale was"]),
        (
            "--system Hello",
            &["data:", "system was null, is \"Hello\""],
        ),
        (
            "--current_date 2025-08-06",
            &[
                "data:",
                "current_date was \"2025-08-05\", is \"2025-08-06\"",
            ],
        ),
        (&edited, &["data:", "dataset was"]),
        (
            "--streaming true",
            &["streaming: the checkpoint has false, this run true"],
        ),
        (
            "--optim sgd",
            &[
                "optimizer: the checkpoint has adamw",
                "this run sgd",
                "--resume_changes optimizer",
            ],
        ),
        (
            "--weight_decay 0.2",
            &[
                "weight_decay 0.1",
                "weight_decay 0.2",
                "--resume_changes optimizer",
            ],
        ),
        (
            "--learning_rate 1e-4",
            &[
                "learning_rate: the checkpoint has 0.001, this run 0.0001",
                "--resume_changes learning_rate",
            ],
        ),
        (
            "--lr_scheduler_type linear",
            &["lr_scheduler: the checkpoint has cosine, this run linear"],
        ),
        (
            "--warmup_steps 3",
            &["warmup_steps: the checkpoint has 0, this run 3"],
        ),
        (
            "--max_steps 6",
            &[
                "max_steps: the checkpoint has 4, this run 6",
                "--resume_changes max_steps",
            ],
        ),
        (
            "--max_grad_norm 0.5",
            &["max_grad_norm: the checkpoint has 1.0, this run 0.5"],
        ),
        (
            "--loss_type dft",
            &["loss_type: the checkpoint has cross_entropy, this run dft"],
        ),
        (
            "--router_aux_loss_coef 0.1",
            &["router_aux_loss_coef: the checkpoint has 0.0, this run 0.1"],
        ),
        ("--seed 7", &["seed: the checkpoint has 42, this run 7"]),
        (
            "--lora_dropout 0.1",
            &["lora_dropout: the checkpoint has 0.0, this run 0.1"],
        ),
        (
            "--lorap_lr_ratio 16",
            &["lorap_lr_ratio: the checkpoint has none, this run 16.0"],
        ),
        (
            "--lora_rank 4",
            &[
                "trained: the checkpoint has tensors 32",
                "lora_rank 8",
                "lora_rank 4",
            ],
        ),
        (
            "--lora_alpha 16",
            &[
                "adapter: the checkpoint has lora_rank 8, lora_alpha 32.0",
                "lora_alpha 16.0",
            ],
        ),
        (
            "--target_modules q_proj",
            &[
                "trained: the checkpoint has tensors 32",
                "this run tensors 8",
            ],
        ),
        ("--train_type full", &["model.safetensors is missing"]),
        (&base, &["model: the checkpoint has sha256"]),
    ];
    for (flags, says) in cases {
        let said = refuses(&other, &format!("{resume} {flags}"), says);
        let can_be_left_out = !said.contains("trained:")
            && !said.contains("adapter:")
            && !said.contains("is missing");
        assert_eq!(
            said.contains("--resume_only_model true"),
            can_be_left_out,
            "{flags}\n{said}"
        );
        // Nothing of it is left behind.
        assert!(!other.exists(), "{flags}");
    }
    // All of them at once are said at once.
    let many = "--data_seed 7 --learning_rate 1e-4 --optim sgd";
    refuses(
        &other,
        &format!("{resume} {many}"),
        &["data_seed:", "learning_rate:", "optimizer:"],
    );
}

/// Changes all weights of a model a little, in its last shard.
fn flip_a_weight(model: &Path) {
    let path = model.join("model-00001-of-00002.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
}

/// What fixes neither may differ, and the run is still the same.
#[test]
fn what_may_differ_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (whole, resume) = four_steps(home.path());
    let moved = home.path().join("moved.jsonl");
    fs::copy(format!("{TINY}/chat_train.jsonl"), &moved).unwrap();
    let base = home.path().join("base");
    copy(Path::new(&format!("{TINY}/model_mxfp4")), &base);
    let expected = by_step(&whole);
    let places = format!("--dataset {} --model {}", moved.display(), base.display());
    for (number, flags) in [
        "--per_device_train_batch_size 2 --gradient_accumulation_steps 2",
        "--per_device_train_batch_size 4 --gradient_accumulation_steps 1",
        "--gradient_checkpointing false --save_steps 3 --save_total_limit 1 --save_only_model true",
        "--max_steps -1 --num_train_epochs 2 --eval_strategy no",
        &places,
    ]
    .iter()
    .enumerate()
    {
        let run = home.path().join(format!("{number}"));
        trains(&run, &format!("{resume} {flags}"));
        let found = by_step(&run);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&3, &4], "{flags}");
        for (step, (loss, norm)) in found {
            let (expected_loss, expected_norm) = expected[&step];
            assert!(
                (loss - expected_loss).abs() < 1e-5,
                "{flags}, step {step}: {loss} {expected_loss}"
            );
            assert!(
                (norm - expected_norm).abs() < 1e-4,
                "{flags}, step {step}: {norm} {expected_norm}"
            );
        }
    }
}

#[test]
fn a_change_that_is_meant_is_allowed_by_name() {
    let home = tempfile::tempdir().unwrap();
    let (_, resume) = four_steps(home.path());
    let run = home.path().join("changed");
    let flags = format!(
        "{resume} --learning_rate 1e-4 --optim sgd --num_train_epochs 3 --max_steps -1 \
         --resume_changes learning_rate num_train_epochs optim"
    );
    let said = trains(&run, &flags);
    for part in [
        "learning_rate was 0.001, is 0.0001",
        "max_steps was 4, is 6",
        "the state of \"adamw\" is nothing to \"sgd\"",
    ] {
        assert!(said.contains(part), "{part:?} not in {said}");
    }
    assert_eq!(by_step(&run).keys().max(), Some(&6));
    refuses(
        &run,
        &format!("{resume} --data_seed 7 --resume_changes data_seed"),
        &["resume_changes names \"data_seed\"", "learning_rate"],
    );
}

#[test]
fn a_longer_run_needs_no_leave_where_the_rates_stay() {
    let home = tempfile::tempdir().unwrap();
    let flags = format!(
        "{} {FOUR} --lr_scheduler_type constant_with_warmup --warmup_steps 1",
        model()
    );
    let [short, long, rest] = ["short", "long", "rest"].map(|name| home.path().join(name));
    trains(&short, &flags);
    trains(&long, &format!("{flags} --max_steps 6"));
    let from = short.join("checkpoint-4");
    trains(
        &rest,
        &format!(
            "{flags} --max_steps 6 --resume_from_checkpoint {}",
            from.display()
        ),
    );
    assert_eq!(
        weights(&rest.join("checkpoint-6")),
        weights(&long.join("checkpoint-6"))
    );
}

#[test]
fn the_weights_alone_start_all_else_anew() {
    let home = tempfile::tempdir().unwrap();
    let (whole, resume) = four_steps(home.path());
    let only = format!("{resume} --resume_only_model true");
    let [resumed, adapted] = ["resumed", "adapted"].map(|name| home.path().join(name));
    let other = "--data_seed 7 --optim sgd --learning_rate 1e-2 --gradient_accumulation_steps 2";
    let said = trains(&resumed, &format!("{only} --ignore_data_skip true {other}"));
    assert!(
        said.contains("data, optimizer and schedule start anew"),
        "{said}"
    );
    // As a new run that starts from the adapter.
    let adapter = whole.join("checkpoint-2");
    trains(
        &adapted,
        &format!(
            "{} {FOUR} {other} --adapters {}",
            model(),
            adapter.display()
        ),
    );
    let losses = |run: &Path| {
        by_step(run)
            .into_values()
            .map(|(loss, _)| loss)
            .collect::<Vec<_>>()
    };
    assert_eq!(losses(&resumed), losses(&adapted));
    assert_eq!(losses(&resumed).len(), 4);

    refuses(
        &resumed,
        &format!("{only} --lora_alpha 16"),
        &["adapter:", "lora_alpha 16.0"],
    );
    refuses(
        &resumed,
        &format!("{only} --ignore_data_skip false"),
        &["ignore_data_skip false"],
    );
    refuses(
        &resumed,
        &format!("{resume} --ignore_data_skip true"),
        &["--resume_only_model true"],
    );
    refuses(
        &resumed,
        &format!("{} {FOUR} --resume_only_model true", model()),
        &["--resume_from_checkpoint CHECKPOINT"],
    );
}

#[test]
fn a_day_later_the_data_is_the_same() {
    let home = tempfile::tempdir().unwrap();
    let (whole, resume) = four_steps(home.path());
    // No date is given, and it is another day: the checkpoint's stays.
    let words: Vec<String> = sft(&home.path().join("later"), &resume)
        .get_args()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let at = words
        .iter()
        .position(|word| word == "--current_date")
        .unwrap();
    let line = [&words[..at], &words[at + 2..]].concat().join(" ");
    common::works(&line);
    let later = by_step(&home.path().join("later"));
    assert_eq!(later.len(), 2);
    assert!(
        later
            .iter()
            .all(|(step, values)| by_step(&whole)[step] == *values)
    );
}

#[test]
fn a_stream_goes_on_where_it_was_and_nowhere_else() {
    let home = tempfile::tempdir().unwrap();
    let rows = fs::read_to_string(format!("{TINY}/chat_train.jsonl")).unwrap();
    let [a, b] = ["a", "b"].map(|name| home.path().join(name).join("rows.jsonl"));
    for path in [&a, &b] {
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(path, &rows).unwrap();
    }
    let flags = format!(
        "{} {FOUR} --streaming true --shuffle_buffer_size 4",
        model()
    );
    let whole = home.path().join("whole");
    trains(&whole, &format!("{flags} --dataset {}", a.display()));
    let resume = format!(
        "{flags} --resume_from_checkpoint {}",
        whole.join("checkpoint-2").display()
    );
    let rest = home.path().join("rest");
    trains(&rest, &format!("{resume} --dataset {}", b.display()));
    let expected = by_step(&whole);
    assert!(
        by_step(&rest)
            .iter()
            .all(|(step, values)| expected[step] == *values)
    );

    let longer = home.path().join("longer");
    let more = "--max_steps 6 --resume_changes max_steps";
    trains(
        &longer,
        &format!("{resume} --dataset {} {more}", b.display()),
    );
    assert_eq!(by_step(&longer).keys().max(), Some(&6));

    let other = home.path().join("other");
    let from_b = format!("{resume} --dataset {}", b.display());
    refuses(
        &other,
        &format!("{from_b} --shuffle_buffer_size 3"),
        &[
            "data: the checkpoint has stream of rows.jsonl",
            "shuffle_buffer_size was 4, is 3",
        ],
    );
    refuses(
        &other,
        &format!("{from_b} --system Hello"),
        &[
            "the first 8 examples of the stream are others",
            "system was null",
        ],
    );
    fs::write(&b, rows.replacen("harbour", "coastal", 1)).unwrap();
    refuses(
        &other,
        &from_b,
        &["data: the checkpoint has stream of rows.jsonl"],
    );
}
