//! A curve of transformers and PEFT (tests/goldens/tiny/README.md) as `apus sft` trains it: rows of tokens, the reference's own
//! initial adapter, its flags; compared are the log's lines and the adapter at the end.

#![allow(dead_code)]

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

fn tensors(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// Rows of tokens for `apus sft`, in the reference's order, without its padding.
fn rows(curve: &str) -> String {
    let data = tensors(&Path::new(TINY).join("train_data.safetensors"));
    let part = |name: &str| -> Vec<Vec<i64>> {
        let all = data[&format!("{curve}.{name}")].to_dtype(DType::I64);
        let all = all.unwrap().flatten(0, 1).unwrap();
        all.to_vec2().unwrap()
    };
    let (ids, labels, mask) = (part("input_ids"), part("labels"), part("attention_mask"));
    let rows = ids
        .iter()
        .zip(&labels)
        .zip(&mask)
        .map(|((ids, labels), mask)| {
            let kept = |values: &[i64]| -> Vec<i64> {
                let pairs = values.iter().zip(mask);
                pairs
                    .filter(|(_, kept)| **kept == 1)
                    .map(|(value, _)| *value)
                    .collect()
            };
            json!({"input_ids": kept(ids), "labels": kept(labels)}).to_string() + "\n"
        });
    rows.collect()
}

/// The curves.
pub const CURVES: [&str; 4] = ["a_attn", "b_attn_experts", "c_fast_accum2_wd", "d_loraplus"];

/// Examples of a micro-batch of the reference.
const BATCH: usize = 4;

/// Trains a curve in this folder by this many ranks, each of which has its share of a micro-batch, and compares it with the
/// reference. Returns the folder of the run.
pub fn follow(curve: &str, ranks: usize, dir: &Path) -> PathBuf {
    let text = fs::read_to_string(Path::new(TINY).join("curves.json")).unwrap();
    let curves: Value = serde_json::from_str(&text).unwrap();
    let (hyper, steps) = (
        &curves[curve]["hyper"],
        curves[curve]["steps"].as_array().unwrap(),
    );
    let (dataset, run) = (dir.join("rows.jsonl"), dir.join(format!("run-{ranks}")));
    fs::write(&dataset, rows(curve)).unwrap();
    let words = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_apus"));
    command.args(words(
        "sft --device cpu --plot false --add_version false --dataset_shuffle false --train_dataloader_shuffle false \
         --num_train_epochs 1 --logging_steps 1 --lr_scheduler_type cosine_with_min_lr",
    ));
    if ranks > 1 {
        command.env("NPROC_PER_NODE", ranks.to_string());
        command.env("RAYON_NUM_THREADS", "1");
    }
    assert_eq!(BATCH % ranks, 0, "{BATCH} examples for {ranks} ranks");
    command.args([
        "--per_device_train_batch_size",
        &(BATCH / ranks).to_string(),
    ]);
    command.args(["--model", &format!("{TINY}/model_mxfp4")]);
    command.args([
        "--adapters",
        &format!("{TINY}/{}", hyper["init_adapter"].as_str().unwrap()),
    ]);
    command
        .arg("--dataset")
        .arg(&dataset)
        .arg("--output_dir")
        .arg(&run);
    for (flag, key) in [
        ("gradient_accumulation_steps", "grad_accum"),
        ("learning_rate", "lr"),
        ("weight_decay", "weight_decay"),
        ("max_grad_norm", "clip"),
        ("adam_epsilon", "eps"),
        ("warmup_steps", "warmup_steps"),
    ] {
        command.args([format!("--{flag}"), hyper[key].to_string()]);
    }
    for (flag, value) in [
        ("adam_beta1", &hyper["betas"][0]),
        ("adam_beta2", &hyper["betas"][1]),
    ] {
        command.args([format!("--{flag}"), value.to_string()]);
    }
    command.args([
        "--lr_scheduler_kwargs",
        &json!({"min_lr_rate": hyper["min_lr_rate"]}).to_string(),
    ]);
    if let Some(ratio) = hyper["loraplus_lr_ratio"].as_f64() {
        command.args(["--lorap_lr_ratio", &ratio.to_string()]);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{curve}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let log = fs::read_to_string(run.join("logging.jsonl")).unwrap();
    let lines = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines: Vec<Value> = lines.filter(|line| line.get("loss").is_some()).collect();
    assert_eq!(
        lines.len(),
        steps.len(),
        "{curve}: lines of steps in the log"
    );
    for (step, (found, wanted)) in lines.iter().zip(steps).enumerate() {
        let norm = wanted["grad_norm"].as_f64().unwrap();
        for (found_key, key, tolerance) in [
            ("loss", "loss", 1e-4),
            ("grad_norm", "grad_norm", 1e-3 * norm),
            ("learning_rate", "lr", 1e-10),
        ] {
            let (found, wanted) = (
                found[found_key].as_f64().unwrap(),
                wanted[key].as_f64().unwrap(),
            );
            assert!(
                (found - wanted).abs() <= tolerance,
                "{curve}, step {step}, {key}: {found}, expected {wanted}"
            );
        }
    }
    let adapter = |folder: &Path| tensors(&folder.join("adapter_model.safetensors"));
    let found = adapter(&run.join(format!("checkpoint-{}", steps.len())));
    let wanted = adapter(&Path::new(TINY).join(format!("adapter_final_{curve}")));
    assert_eq!(found.len(), wanted.len());
    for (name, wanted) in &wanted {
        let gap = (&found[name] - wanted)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap();
        let gap = gap.to_scalar::<f32>().unwrap();
        assert!(gap < 3e-4, "{curve}, {name} at the end: off by {gap}");
    }
    run
}
