//! Models and adapters as files: found again from anywhere, looked at before memory is taken, refused where they are
//! broken.

mod common;

use common::{fails, folder, text, works};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// A copy of a model of the goldens.
fn model(dir: &Path, form: &str) -> PathBuf {
    let copy = dir.join("model");
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(Path::new(GOLDENS).join(form)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// Runs a command in a folder.
fn apus_in(dir: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_apus"))
        .args(line.split_whitespace())
        .current_dir(dir)
        .output()
        .unwrap()
}

#[test]
fn a_relative_model_is_found_again_from_another_folder() {
    let (home, elsewhere) = (folder("models-relative"), folder("models-elsewhere"));
    model(&home, "model_bf16");
    let line = format!(
        "sft --device cpu --max_steps 1 --model model --dataset {GOLDENS}/chat_train.jsonl --output_dir out \
         --add_version false --current_date 2025-08-05"
    );
    let output = apus_in(&home, &line);
    assert!(output.status.success(), "{}", text(&output));
    let checkpoint = home.join("out/checkpoint-1");
    let whole = home.join("model").display().to_string();
    for (file, key) in [
        ("adapter_config.json", "base_model_name_or_path"),
        ("args.json", "model"),
    ] {
        let json = fs::read_to_string(checkpoint.join(file)).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json[key], whole.as_str(), "{file}");
    }
    let checkpoint = checkpoint.display();
    let output = apus_in(
        &elsewhere,
        &format!(
            "infer --device cpu --adapters {checkpoint} --input_ids 1 2 --dump_logits l.safetensors"
        ),
    );
    assert!(output.status.success(), "{}", text(&output));
    let line = format!("export --adapters {checkpoint} --merge_lora true --output_dir merged");
    let output = apus_in(&elsewhere, &line);
    assert!(output.status.success(), "{}", text(&output));
}

/// The plan of a model that does not fit is shown in a thirtieth of its memory.
#[test]
#[cfg(target_os = "linux")]
fn a_dry_run_needs_no_memory_for_the_model() {
    let line = format!(
        "sft --dry_run true --device cpu --model synthetic:gpt-oss-120b --tokenizer {GOLDENS}/model_bf16 \
         --dataset {GOLDENS}/chat_train.jsonl --output_dir {}",
        folder("models-dry").display()
    );
    let limited = format!(
        "ulimit -v 8000000; exec {} {line}",
        env!("CARGO_BIN_EXE_apus")
    );
    let output = Command::new("sh").args(["-c", &limited]).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for part in [
        "memory plan for",
        "mlp.experts",
        "LoRA on q_proj, rank 8",
        "trainable 5,971,968 of 116,835,128,640 parameters",
        "so about",
        "the first example",
    ] {
        assert!(said.contains(part), "{part:?} not in:\n{said}");
    }
}

#[test]
fn sizes_are_checked_before_anything_is_allocated() {
    let out = folder("models-sizes");
    let sft = |rest: &str| {
        format!(
            "sft --device cpu --max_steps 1 --dataset {GOLDENS}/chat_train.jsonl --tokenizer {GOLDENS}/model_bf16 \
             --output_dir {} {rest}",
            out.display()
        )
    };
    let large = sft("--model synthetic:gpt-oss-20b --lora_rank 1000000");
    fails(&large, 1, &["lower lora_rank (1000000)", "are free on cpu"]);
    let copy = model(&out, "model_mxfp4");
    let config = fs::read_to_string(copy.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    for (key, value) in [
        ("num_hidden_layers", Value::from(1_000_000_000_000u64)),
        ("vocab_size", Value::from(u64::MAX)),
        ("swiglu_limit", Value::from(-7)),
    ] {
        let before = config[key].clone();
        config[key] = value;
        fs::write(copy.join("config.json"), config.to_string()).unwrap();
        let line = sft(&format!("--model {}", copy.display()));
        fails(&line, 1, &["config.json: ", key, "expected"]);
        config[key] = before;
    }
    // A model of fewer layers than its files hold is said.
    config["num_hidden_layers"] = 3.into();
    config["layer_types"] = Value::Null;
    fs::write(copy.join("config.json"), config.to_string()).unwrap();
    let said = works(&sft(&format!("--model {}", copy.display())));
    assert!(
        said.contains("tensors of the model's files are not used")
            && said.contains("model.layers.3."),
        "{said}"
    );
}

/// A model of which a number is broken neither answers nor is merged.
#[test]
fn a_model_that_is_not_finite_does_not_answer() {
    let out = folder("models-nan");
    let copy = model(&out, "model_bf16");
    let weights = copy.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let at = json["model.norm.weight"]["data_offsets"][0]
        .as_u64()
        .unwrap() as usize;
    bytes[8 + header + at..][..2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    fs::write(&weights, bytes).unwrap();
    let copy = copy.display();
    let questions = out.join("questions.jsonl");
    fs::write(&questions, "{\"query\": \"hi\"}\n").unwrap();
    let line = format!(
        "infer --device cpu --model {copy} --val_dataset {} --max_new_tokens 3 --result_path {}/answers.jsonl",
        questions.display(),
        out.display()
    );
    let output = apus_in(&out, &line);
    assert!(
        text(&output).contains("logits are not finite"),
        "{}",
        text(&output)
    );
    let line = format!(
        "export --model {copy} --adapters {GOLDENS}/adapter_grad_attn --merge_lora true --output_dir {}/merged",
        out.display()
    );
    fails(
        &line,
        1,
        &["model.norm.weight: 1 of its 64 values are not finite"],
    );
    assert!(!out.join("merged").exists());
}
