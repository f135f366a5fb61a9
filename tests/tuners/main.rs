//! Tuners, built in and of a plugin library: trained, gone on with, answered with, merged or refused.

#[path = "../common/mod.rs"]
mod common;

mod added_blocks;
mod experts;
mod initial;
mod kinds;
mod library;
mod low_rank;

use candle_core::{Device, Tensor};
use common::training::trains;
use common::works;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny/model_bf16");

fn plugin() -> String {
    let library = common::library("asking_plugin");
    format!("--plugin {}", library.display())
}

/// The flags of the tuner of the library.
fn bottleneck() -> String {
    format!(
        "--train_type bottleneck --train_type.width 3 {} --gradient_accumulation_steps 2",
        plugin()
    )
}

fn pair(options: &str) -> String {
    let mut line = format!("--train_type pair {}", plugin());
    for option in options.split_whitespace().collect::<Vec<_>>().chunks(2) {
        line += &format!(" --train_type.{} {}", option[0], option[1]);
    }
    line
}

fn config(checkpoint: &Path) -> Value {
    let text = fs::read_to_string(checkpoint.join("adapter_config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Names and shapes of the tensors of a checkpoint.
fn tensors(checkpoint: &Path) -> Vec<(String, Vec<usize>)> {
    let file = checkpoint.join("adapter_model.safetensors");
    let all = candle_core::safetensors::load(file, &candle_core::Device::Cpu).unwrap();
    let mut found: Vec<_> = all
        .into_iter()
        .map(|(name, tensor)| (name, tensor.dims().to_vec()))
        .collect();
    found.sort();
    found
}

fn all_tensors(file: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

/// The tensors of a checkpoint by their names.
fn values(checkpoint: &Path) -> BTreeMap<String, Vec<f32>> {
    let file = checkpoint.join("adapter_model.safetensors");
    let flat = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1().unwrap();
    all_tensors(&file)
        .into_iter()
        .map(|(name, tensor)| (name, flat(tensor)))
        .collect()
}

/// The answers to a question, one token after another, and the last layer's keys with them.
fn answer(home: &Path, name: &str, flags: &str) -> String {
    let rows = home.join("rows.jsonl");
    fs::write(&rows, "{\"query\": \"Who are you?\"}\n").unwrap();
    let out = home.join(format!("{name}.jsonl"));
    works(&format!(
        "infer {flags} --val_dataset {} --device cpu --current_date 2025-08-05 --max_new_tokens 12 --temperature 0 \
         --logprobs true --result_path {}",
        rows.display(),
        out.display()
    ));
    let line = fs::read_to_string(out).unwrap();
    let row: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    json!([row["response"], row["logprobs"]]).to_string()
}

fn run(dir: &Path, flags: &str) -> PathBuf {
    trains(
        dir,
        &format!("--model {MODEL} --learning_rate 1e-2 --max_steps 4 --save_steps 2 {flags}"),
    );
    dir.join("checkpoint-4")
}

/// Two answers begin alike. Later tokens may turn on how a merged weight was rounded.
fn near(found: &str, expected: &str) {
    let [found, expected] = [found, expected].map(|text| {
        let all: Value = serde_json::from_str(text).unwrap();
        let token = all[1]["content"][0].clone();
        (token["token"].clone(), token["logprob"].as_f64().unwrap())
    });
    assert_eq!(found.0, expected.0);
    assert!(
        (found.1 - expected.1).abs() < 0.05,
        "{found:?} {expected:?}"
    );
}
