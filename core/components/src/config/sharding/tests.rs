use super::super::{Resolved, from_arguments};
use super::*;
use ShardBase::{Auto, False, True};

fn read(words: &[&str]) -> Result<Resolved<SftConfig>> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    from_arguments(&words)
}

/// What these flags shard in a run of so many ranks, after all checks of a run.
fn shards(words: &[&str], ranks: usize) -> Result<Sharding> {
    let all: Vec<&str> = ["--model", "m", "--dataset", "d"]
        .iter()
        .chain(words)
        .copied()
        .collect();
    let found = read(&all)?;
    found.config.check(&|flag| found.given(flag))?;
    sharding(&found.config, ranks)
}

fn said(words: &[&str], ranks: usize) -> String {
    format!("{:#}", shards(words, ranks).expect_err(&words.join(" ")))
}

/// A file with this text.
fn file(text: &str) -> (tempfile::NamedTempFile, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    let path = file.path().display().to_string();
    (file, path)
}

const STAGE_3: &str = r#"{"zero_optimization": {"stage": 3}, "train_batch_size": "auto"}"#;

#[test]
fn every_spelling_is_read() {
    let ms_swift = r#"{"fsdp": "full_shard auto_wrap", "fsdp_config": {"fsdp_version": 2, "reshard_after_forward": true}}"#;
    let zero2 = r#"{"fsdp_config": {"reshard_after_forward": false}}"#;
    let accelerate = r#"{"distributed_type": "FSDP", "fsdp_config": {"fsdp_sharding_strategy": "SHARD_GRAD_OP"}}"#;
    let kept = r#"{"fsdp_reshard_after_forward": false}"#;
    let ((_a, deepspeed), (_b, fsdp)) = (file(STAGE_3), file(ms_swift));
    for (words, optimizer, base) in [
        (vec![], false, False),
        (vec!["--deepspeed", "none"], false, False),
        (vec!["--deepspeed", "zero0"], false, False),
        (vec!["--deepspeed", "zero1"], true, False),
        (vec!["--deepspeed", "zero2"], true, False),
        (vec!["--deepspeed", "zero3"], true, Auto),
        (vec!["--deepspeed", "zero2_offload"], true, False),
        (vec!["--deepspeed", "zero3_offload"], true, Auto),
        (vec!["--deepspeed", &deepspeed], true, Auto),
        (vec!["--deepspeed", STAGE_3], true, Auto),
        (
            vec!["--deepspeed", r#"{"zero_optimization": {"stage": 2}}"#],
            true,
            False,
        ),
        (
            vec!["--deepspeed", r#"{"zero_optimization": {"stage": 0}}"#],
            false,
            False,
        ),
        (vec!["--deepspeed", "{}"], false, False),
        (vec!["--fsdp", "full_shard"], true, Auto),
        (vec!["--fsdp", "full_shard auto_wrap"], true, Auto),
        (vec!["--fsdp", "full_shard auto_wrap offload"], true, Auto),
        (vec!["--fsdp", "auto_wrap"], true, Auto),
        (vec!["--fsdp", "true"], true, Auto),
        (vec!["--fsdp", "shard_grad_op"], true, False),
        (vec!["--fsdp", "hybrid_shard auto_wrap"], true, Auto),
        (vec!["--fsdp", "hybrid_shard_zero2"], true, False),
        (vec!["--fsdp", "no_shard"], false, False),
        (vec!["--fsdp", "fsdp2"], true, Auto),
        (vec!["--fsdp", "false"], false, False),
        (vec!["--fsdp", &fsdp], true, Auto),
        (vec!["--fsdp", ms_swift], true, Auto),
        (vec!["--fsdp", zero2], true, False),
        (vec!["--fsdp", accelerate], true, False),
        (
            vec!["--fsdp", "full_shard", "--fsdp_config", kept],
            true,
            False,
        ),
        (vec!["--shard_base", "auto"], false, Auto),
        (vec!["--shard_base", "true"], false, True),
        (vec!["--shard_base", "false"], false, False),
        (
            vec!["--deepspeed", "zero1", "--shard_base", "true"],
            true,
            True,
        ),
        (
            vec!["--deepspeed", "zero3", "--shard_base", "true"],
            true,
            True,
        ),
        (
            vec!["--deepspeed", "zero3", "--shard_base", "false"],
            true,
            False,
        ),
        (
            vec!["--deepspeed", "zero3", "--train_type", "full"],
            true,
            False,
        ),
    ] {
        let found = shards(&words, 4).unwrap_or_else(|error| panic!("{words:?}: {error:#}"));
        assert_eq!(
            (found.optimizer, found.base),
            (optimizer, base),
            "{words:?}"
        );
        let config = read(&words).unwrap().config;
        let flags = [
            config.deepspeed.is_null(),
            config.fsdp.is_null(),
            config.shard_base.is_none(),
        ];
        assert_eq!(found.notes.is_empty(), flags == [true; 3], "{words:?}");
        let alone = shards(&words, 1).unwrap();
        assert_eq!((alone.optimizer, alone.base), (false, False), "{words:?}");
        let lines = (alone.notes.last(), found.notes.last());
        if let (Some(alone), Some(found)) = lines {
            assert!(alone.contains("one process trains"), "{alone}");
            assert_eq!(
                found.contains("over 4 ranks"),
                optimizer || base != False,
                "{found}"
            );
        }
    }
}

#[test]
fn what_is_not_used_is_said() {
    for (words, says) in [
        (
            ["--deepspeed", "zero3_offload"],
            "nothing is offloaded to host memory",
        ),
        (
            [
                "--deepspeed",
                r#"{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}"#,
            ],
            "nothing is offloaded to host memory",
        ),
        (
            ["--deepspeed", r#"{"steps_per_print": 5, "_note": "n"}"#],
            "not used, as it is about DeepSpeed's own engine: steps_per_print",
        ),
        (["--fsdp", "full_shard offload"], "nothing is offloaded"),
        (
            ["--fsdp", "hybrid_shard"],
            "over all ranks, not inside each host alone",
        ),
    ] {
        let notes = shards(&words, 2).unwrap().notes;
        assert!(notes[0].contains(says), "{words:?}: {notes:?}");
    }
    let unfit = r#"{"fsdp_config": {"activation_checkpointing": true}}"#;
    let notes = shards(&["--fsdp", unfit, "--gradient_checkpointing", "false"], 2)
        .unwrap()
        .notes;
    assert!(
        notes[0].contains("--gradient_checkpointing true"),
        "{notes:?}"
    );
}

#[test]
fn what_would_train_something_else_is_an_error() {
    for (json, says) in [
        (
            r#"{"gradient_clipping": 0.5}"#,
            "gradient_clipping is 0.5, and max_grad_norm 1.0",
        ),
        (
            r#"{"train_batch_size": 8}"#,
            "train_batch_size is 8, and per_device_train_batch_size x gradient_accumulation_steps x ranks 32",
        ),
        (
            r#"{"train_micro_batch_size_per_gpu": 2}"#,
            "per_device_train_batch_size 1",
        ),
        (
            r#"{"gradient_accumulation_steps": 4}"#,
            "gradient_accumulation_steps 16",
        ),
        (r#"{"fp16": {"enabled": true}}"#, "fp16.enabled is true"),
        (
            r#"{"optimizer": {"type": "Lamb"}}"#,
            "optimizer.type is \"Lamb\"",
        ),
        (
            r#"{"optimizer": {"params": {"lr": 0.5}}}"#,
            "optimizer.params.lr is 0.5, and learning_rate 0.0001",
        ),
        (
            r#"{"optimizer": {"params": {"betas": [0.9, 0.999]}}}"#,
            "adam_beta1 and adam_beta2 [0.9,0.95]",
        ),
        (
            r#"{"scheduler": {"type": "WarmupLR"}}"#,
            "--lr_scheduler_type",
        ),
        (
            r#"{"zero_optimization": {"stage": 4}}"#,
            "zero_optimization.stage is 4, expected 0, 1, 2 or 3",
        ),
        (
            r#"{"zero_optimization": true}"#,
            "zero_optimization is true, expected an object",
        ),
    ] {
        let error = said(&["--deepspeed", json], 2);
        assert!(error.contains(says), "{json}: {error}");
    }
    let fits = r#"{"gradient_clipping": 1, "train_batch_size": 32, "train_micro_batch_size_per_gpu": 1, "amp": {"enabled": false},
        "fp16": {"enabled": "auto"}, "bf16": {"enabled": true}, "optimizer": {"params": {"lr": "auto", "eps": 1e-8}}}"#;
    shards(&["--deepspeed", fits, "--torch_dtype", "bfloat16"], 2).unwrap();
    let error = said(&["--deepspeed", fits, "--torch_dtype", "float32"], 2);
    assert!(
        error.contains("bf16.enabled is true, and with torch_dtype float32 false"),
        "{error}"
    );
}

#[test]
fn what_is_unknown_is_an_error_that_says_what_was_expected() {
    let (_broken, broken) = file("{");
    let (_list, list) = file("[1]");
    for (words, says) in [
        (
            vec!["--deepspeed", "zero4"],
            "expected zero0, zero1, zero2, zero3, zero2_offload, zero3_offload, JSON, or the path of a JSON file, which is not there; did you mean",
        ),
        (vec!["--deepspeed", "nowhere.json"], "nowhere.json"),
        (
            vec!["--deepspeed", &broken],
            "expected a file with a JSON object",
        ),
        (
            vec!["--deepspeed", &list],
            "expected a file with a JSON object",
        ),
        (vec!["--deepspeed", "{\"a\""], "--deepspeed: expected JSON"),
        (vec!["--fsdp", "full_shards"], "did you mean full_shard?"),
        (vec!["--fsdp", "full_shard shard_grad_op"], "contradict"),
        (vec!["--fsdp", "offload"], "full_shard"),
        (vec!["--fsdp", r#"{"fsdp": "all"}"#], "fsdp has \"all\""),
        (
            vec!["--fsdp", "full_shard", "--fsdp_config", "nowhere.json"],
            "fsdp_config is \"nowhere.json\"",
        ),
        (
            vec!["--fsdp", "fsdp2", "--deepspeed", "zero3"],
            "keep one of them",
        ),
        (
            vec!["--fsdp_config", r#"{"reshard_after_forward": true}"#],
            "fsdp is not",
        ),
        (vec!["--shard_base", "yes"], "expected auto, true or false"),
        (
            vec!["--shard_base", "true", "--train_type", "full"],
            "no frozen base",
        ),
    ] {
        let error = said(&words, 2);
        assert!(error.contains(says), "{words:?}: {error}");
    }
}

/// A file's content counts, not its path: args.json shows it, and ranks of several hosts compare it.
#[test]
fn a_file_is_kept_by_its_content() {
    let (_file, path) = file(STAGE_3);
    let config = read(&["--deepspeed", &path]).unwrap().config;
    assert_eq!(config.deepspeed["zero_optimization"]["stage"], 3);
}
