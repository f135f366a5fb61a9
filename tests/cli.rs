//! The real binary: what it says about wrong use and bad input, and the tutorial's three commands.

mod common;

use common::{folder, works};
use std::fs;
use std::path::{Path, PathBuf};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// Runs a command that has to fail with this status and say all of these, without any panic.
#[track_caller]
fn fails(line: &str, status: i32, says: &[&str]) {
    let said = common::fails(line, status, says);
    assert!(!said.contains("panicked"), "apus {line}\n{said}");
}

/// A copy of a model of the goldens.
fn model(dir: &Path, form: &str) -> PathBuf {
    let copy = dir.join(form);
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(Path::new(GOLDENS).join(form)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// `apus sft` with one step on the CPU.
fn sft(out: &Path, model: &Path, dataset: &Path) -> String {
    format!(
        "sft --device cpu --max_steps 1 --model {} --dataset {} --output_dir {}",
        model.display(),
        dataset.display(),
        out.join("output").display()
    )
}

#[test]
fn wrong_use_ends_with_status_2() {
    let data = format!("--model {GOLDENS}/model_bf16 --dataset {GOLDENS}/chat_train.jsonl");
    fails("sft --lora_rnk 8", 2, &["--lora_rnk", "'--lora_rank'"]);
    fails(
        "sft --lora_rank eight",
        2,
        &["--lora_rank", "whole number", "eight"],
    );
    fails("sft", 2, &["--model is missing"]);
    fails("sft --config nope.toml", 2, &["nope.toml: cannot be read"]);
    fails("components lossy", 2, &["lossy", "loss scale"]);
    fails("wrong", 2, &["unrecognized subcommand 'wrong'"]);
    fails(
        &format!("sft {data} --warmup_ratio 0.1 --warmup_steps 3"),
        2,
        &["warmup_ratio and warmup_steps are both given"],
    );
    fails(
        &format!("sft {data} --optimizer adamw --optimizer.beta2 0.9 --adam_beta2 0.9"),
        2,
        &["adam_beta2 and optimizer.beta2 are both given"],
    );
    fails(
        &format!("sft {data} --lora_dropout 0.1 --target_parameters 1.mlp.experts.down_proj"),
        2,
        &["target_parameters cannot be used with lora_dropout"],
    );
}

#[test]
fn a_wrong_key_is_named_with_file_and_line() {
    let dir = folder("wrong_key");
    let file = dir.join("run.toml");
    fs::write(&file, "model = \"m\"\n\nlearning_rat = 1e-4\n").unwrap();
    let line = format!("sft --config {}", file.display());
    fails(
        &line,
        2,
        &[
            "run.toml, line 3, key learning_rat",
            "did you mean learning_rate?",
        ],
    );
}

#[test]
fn a_name_that_matches_nothing_lists_what_there_is() {
    let data = format!(
        "sft --device cpu --model {GOLDENS}/model_bf16 --dataset {GOLDENS}/chat_train.jsonl"
    );
    fails(
        &format!("{data} --optimizer adamv"),
        1,
        &["\"adamv\"; there are adamw, "],
    );
    fails(
        &format!("{data} --target_modules nope"),
        1,
        &["\"nope\" matches nothing", "all-linear"],
    );
    fails(
        "sft --model /no/model --dataset x.jsonl",
        1,
        &["/no/model", "no such model"],
    );
    fails(
        &format!("sft --device cpu --model {GOLDENS}/model_bf16 --dataset /no.jsonl"),
        1,
        &["no dataset /no.jsonl"],
    );
}

#[test]
fn training_is_measured() {
    let dir = folder("bench");
    let json = dir.join("figures.json");
    let bench = format!("bench --model {GOLDENS}/model_mxfp4 --device cpu");
    let said = works(&format!(
        "{bench} --batch 2 --seq 16:32 --steps 3 --trained_share 0.5 --json {}",
        json.display()
    ));
    for part in [
        "step 1 ",
        "step 2 ",
        "tokens/s",
        "GFLOP/s",
        "share of limit",
        "peak memory",
        "where the time goes: 2 more steps",
        "attention",
        "head and loss",
        "dequantise",
        "other and idle",
    ] {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
    let figures = fs::read_to_string(&json).unwrap();
    let figures: serde_json::Value = serde_json::from_str(&figures).unwrap();
    assert_eq!(figures["steps"].as_array().map(Vec::len), Some(3));
    let (all, trained) = (
        &figures["tokens_per_second"],
        &figures["trained_tokens_per_second"],
    );
    assert!(all.as_f64() > trained.as_f64() && trained.as_f64() > Some(0.0));
    assert!(figures["profile"]["groups"].as_array().unwrap().len() > 4);

    let against = format!("--batch 2 --against {}", json.display());
    let said = works(&format!("{bench} --seq 16 --steps 3 {against}"));
    for part in [
        "another setting: seq \"16:32\" there, \"16\" here",
        "there",
        "change",
        "head and loss",
    ] {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
    fails(
        &format!("{bench} --ops --seq 16 {against}"),
        1,
        &["a measurement without --ops"],
    );

    let said = works(&format!("{bench} --ops --batch 2 --seq 16"));
    for part in ["attention, sliding, backward", "grouped", "adamw", "GB/s"] {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
}

#[test]
fn answers_are_measured() {
    let dir = folder("bench_generate");
    let json = dir.join("figures.json");
    let said = works(&format!(
        "bench --model {GOLDENS}/model_mxfp4 --device cpu --generate true --loads 1x8+4,3x20+6,1x9+1 --json {}",
        json.display()
    ));
    for part in [
        "streams",
        "answers, tokens/s",
        "share of limit",
        "experts in mxfp4",
    ] {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
    let figures = fs::read_to_string(&json).unwrap();
    let figures: serde_json::Value = serde_json::from_str(&figures).unwrap();
    let loads = figures["loads"].as_array().unwrap();
    assert_eq!(loads.len(), 3);
    for (load, streams) in loads.iter().zip([1, 3, 1]) {
        assert_eq!(load["streams"], streams);
        assert!(load["prompt_tokens_per_second"].as_f64() > Some(0.0));
        assert!(load["bytes_a_step"].as_f64() > Some(0.0));
    }
    assert!(loads[1]["answer_tokens_per_second"].as_f64() > Some(0.0));
    assert!(loads[2]["answer_tokens_per_second"].is_null());
}

#[test]
fn what_cannot_be_measured_is_named() {
    for (flags, says) in [
        ("--steps 2", "steps is 2, expected 3 or more"),
        ("--batch 0", "batch is 0"),
        (
            "--seq long",
            "seq is \"long\", expected a length such as 4096",
        ),
        ("--seq 64:8", "the shorter one first"),
        ("--trained_share 1.5", "trained_share is 1.5"),
        ("--loads 1x8", "expected loads such as 1x128+512"),
        ("--generate true --ops true", "give one of them"),
        ("--step 3", "--step"),
    ] {
        fails(&format!("bench --device cpu {flags}"), 2, &[says]);
    }
    fails(
        "bench --device cpu --train_type all",
        1,
        &["train_type \"all\": it is lora, full, or a tuner"],
    );
    fails(
        &format!("bench --model {GOLDENS}/model_bf16 --device cpu --seq 999999"),
        1,
        &["max_position_embeddings"],
    );
}

#[test]
fn bad_rows_are_named() {
    let dir = folder("bad_rows");
    let good = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}"#;
    let model = Path::new(GOLDENS).join("model_bf16");
    let check = |name: &str, content: &[u8], says: &[&str]| {
        let file = dir.join(name);
        fs::write(&file, content).unwrap();
        fails(&sft(&dir, &model, &file), 1, says);
    };
    let cut = format!("{good}\n{{\"messages\": [\n");
    check(
        "cut.jsonl",
        cut.as_bytes(),
        &["cut.jsonl:2: malformed JSON"],
    );
    let mut latin = format!("{good}\n{{\"messages\":\"").into_bytes();
    latin.extend(b"\xff\"}\n");
    check("latin.jsonl", &latin, &["latin.jsonl:2: invalid UTF-8"]);
    check("empty.jsonl", b"", &["empty.jsonl is empty"]);
    check(
        "silent.jsonl",
        br#"{"messages":[{"role":"user","content":"a"}]}"#,
        &[
            "silent.jsonl:1: row has no assistant message",
            "nothing to train on",
        ],
    );
    let long = format!(
        "{} --max_length 4",
        sft(&dir, &model, &Path::new(GOLDENS).join("chat_train.jsonl"))
    );
    fails(&long, 1, &["nothing to train on"]);
}

#[test]
fn broken_models_are_named() {
    let dir = folder("broken_models");
    let data = Path::new(GOLDENS).join("chat_train.jsonl");
    let check = |model: &Path, says: &[&str]| fails(&sft(&dir, model, &data), 1, says);

    let cut = model(&dir.join("cut"), "model_bf16");
    let weights = fs::OpenOptions::new()
        .write(true)
        .open(cut.join("model.safetensors"));
    weights.unwrap().set_len(700_000).unwrap();
    check(&cut, &["model.safetensors: not a whole safetensors file"]);

    let missing = model(&dir.join("missing"), "model_mxfp4");
    let shard = "model-00001-of-00002.safetensors";
    fs::remove_file(missing.join(shard)).unwrap();
    check(&missing, &[shard]);

    let edit = |name: &str, from: &str, to: &str| {
        let model = model(&dir.join(name), "model_bf16");
        let config = model.join("config.json");
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{from} in config.json");
        fs::write(&config, text.replace(from, to)).unwrap();
        model
    };
    let llama = edit("llama", "\"gpt_oss\"", "\"llama\"");
    check(&llama, &["config.json: model_type is \"llama\""]);
    let narrow = edit("narrow", "\"hidden_size\": 64", "\"hidden_size\": 48");
    check(
        &narrow,
        &["model.embed_tokens.weight", "[768, 64]", "[768, 48]"],
    );

    let good = Path::new(GOLDENS).join("model_bf16");
    let nothing = dir.join("checkpoint-1");
    fs::create_dir_all(&nothing).unwrap();
    let line = format!(
        "{} --resume_from_checkpoint {}",
        sft(&dir, &good, &data),
        nothing.display()
    );
    fails(&line, 1, &["checkpoint-1", "incomplete checkpoint"]);
}

/// The command lines of the tutorial, on the tiny model and for few steps.
#[test]
fn the_tutorials_commands() {
    let dir = folder("tutorial");
    let out = dir.join("output");
    let said = works(&format!(
        "sft --deepspeed zero3 --model {GOLDENS}/model_mxfp4 --dataset {GOLDENS}/chat_train.jsonl --train_type lora \
         --torch_dtype bfloat16 --num_train_epochs 2 --per_device_train_batch_size 1 --per_device_eval_batch_size 1 \
         --learning_rate 1e-4 --lora_rank 8 --lora_alpha 32 --target_modules all-linear \
         --gradient_accumulation_steps 16 --eval_steps 50 --save_steps 50 --save_total_limit 2 --logging_steps 5 \
         --max_length 8192 --output_dir {} --warmup_ratio 0.05 --dataloader_num_workers 4 --use_liger_kernel true \
         --load_from_cache_file false --loss_scale ignore_empty_think --save_strategy epoch --model_author gxb \
         --model_name gxb-gpt-oss-20b-agent-distill --report_to swanlab --swanlab_project swift-robot",
        out.display()
    ));
    for part in [
        "note: deepspeed zero3: one process trains, so that nothing is sharded",
        "use_liger_kernel: nothing to do here",
        "dataloader_num_workers: nothing to do here",
        "swanlab: there is no key for https://api.swanlab.cn",
        "apus swanlab sync ",
    ] {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
    let run = fs::read_dir(&out).unwrap().next().unwrap().unwrap().path();
    let checkpoint = run.join("checkpoint-2");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        assert!(checkpoint.join(file).is_file(), "{file} is missing: {said}");
    }
    assert!(run.join("args.json").is_file() && run.join("logging.jsonl").is_file());

    let checkpoint = checkpoint.display();
    let answers = dir.join("answers.jsonl");
    works(&format!(
        "infer --model {checkpoint} --val_dataset {GOLDENS}/chat_train.jsonl --max_new_tokens 4 --result_path {}",
        answers.display()
    ));
    assert_eq!(fs::read_to_string(&answers).unwrap().lines().count(), 8);
    works(&format!(
        "infer --adapters {checkpoint} --stream true --temperature 0 --max_new_tokens 4 \
         --val_dataset {GOLDENS}/chat_train.jsonl#1 --result_path {}",
        dir.join("streamed.jsonl").display()
    ));
    works(&format!("export --adapters {checkpoint} --merge_lora true"));
    let merged = format!("{checkpoint}-merged");
    assert!(Path::new(&merged).join("config.json").is_file());
    fails(
        &format!("export --adapters {checkpoint} --merge_lora true"),
        1,
        &["-merged"],
    );
}
