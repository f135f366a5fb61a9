//! What whoever makes a component says of it and how a run takes that: flags of its own, and checks before the model is read.

#[path = "../common/mod.rs"]
mod common;

mod checks;
mod flags;
mod options;
mod plugin_check;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

fn asking() -> PathBuf {
    common::library("asking_plugin")
}

/// One step on the tiny model.
fn sft(dir: &Path, flags: &str) -> String {
    format!(
        "sft --model {TINY}/model_bf16 --dataset {TINY}/chat_train.jsonl --current_date 2025-08-05 --device cpu \
         --max_steps 1 --gradient_accumulation_steps 1 --eval_strategy no --save_strategy no --lora_rank 2 \
         --output_dir {} --add_version false {flags}",
        dir.display()
    )
}

fn with_plugin(dir: &Path, flags: &str) -> String {
    sft(dir, &format!("--plugin {} {flags}", asking().display()))
}

fn args(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join("args.json")).unwrap()).unwrap()
}
