//! What callbacks ask for and report is done and known in the step in which they do, whichever event it is.

#[path = "../common/mod.rs"]
mod common;

mod best;
mod ends;
mod requests;

use serde_json::Value;
use std::fs;
use std::path::Path;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// Eight steps of two micro-batches, two epochs, an evaluation every other step, without saves or log lines on the way.
fn sft(dir: &Path, flags: &str) -> String {
    let plugin = common::library("asking_plugin");
    format!(
        "sft --model {TINY}/model_bf16 --dataset {TINY}/chat_train.jsonl --val_dataset {TINY}/chat_train.jsonl \
         --current_date 2025-08-05 --device cpu --num_train_epochs 2 --gradient_accumulation_steps 2 \
         --logging_steps 100 --logging_first_step false --eval_strategy steps --eval_steps 2 --save_steps 100 \
         --lr_scheduler_type constant --lora_rank 4 --learning_rate 1e-3 --max_new_tokens 3 --plugin {} \
         --output_dir {} --add_version false {flags}",
        plugin.display(),
        dir.display()
    )
}

fn lines(dir: &Path, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(dir.join(file)).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn state(dir: &Path, step: u64) -> Value {
    let path = dir.join(format!("checkpoint-{step}/trainer_state.json"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Lines with this key, by step.
fn steps_with(dir: &Path, key: &str) -> Vec<String> {
    let lines = lines(dir, "logging.jsonl").into_iter();
    lines
        .filter(|line| line.get(key).is_some() && line.get("train_runtime").is_none())
        .map(|line| line["global_step/max_steps"].as_str().unwrap().to_owned())
        .collect()
}

/// The parameters of an adapter, by name.
fn adapter(dir: &Path, step: u64) -> std::collections::HashMap<String, Vec<f32>> {
    let path = dir.join(format!("checkpoint-{step}/adapter_model.safetensors"));
    let tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    let values = |tensor: candle_core::Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    let all = tensors.into_iter();
    all.map(|(name, tensor)| (name, values(tensor))).collect()
}

fn resumed(dir: &Path, step: u64) -> String {
    let from = dir.join(format!("checkpoint-{step}"));
    format!("--resume_from_checkpoint {}", from.display())
}
