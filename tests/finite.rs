//! Losses and weights that are not finite end a run: nothing of them is saved.

mod common;

use common::training::{TINY, copy, refuses, said, sft};
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn a_loss_that_is_not_finite_names_layer_and_batch() {
    let home = tempfile::tempdir().unwrap();
    let model = home.path().join("model");
    copy(Path::new(&format!("{TINY}/model_bf16")), &model);
    // A NaN in the norm before the experts of layer 2.
    let weights = model.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let at = &json["model.layers.2.post_attention_layernorm.weight"]["data_offsets"][0];
    let at = 8 + header + at.as_u64().unwrap() as usize;
    bytes[at..at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    fs::write(&weights, bytes).unwrap();

    let flags = format!("--model {} --max_steps 2", model.display());
    refuses(
        &home.path().join("run"),
        &flags,
        &[
            "step 1: micro-batch 0",
            "the output of layer 2 is the first that is not finite",
        ],
    );
}

/// No success with NaN: what a step leaves is looked at, and what is not finite is not saved.
#[test]
fn values_that_are_not_finite_end_the_run_without_a_checkpoint() {
    let home = tempfile::tempdir().unwrap();
    for (name, flags) in [
        ("epsilon", "--optimizer adamw --optimizer.eps 1e-300"),
        ("decay", "--weight_decay 1e300"),
        ("rate", "--lorap_lr_ratio 1e300"),
        ("sgd", "--optim sgd --weight_decay 1e300"),
    ] {
        let run = home.path().join(name);
        let flags = format!("--model {TINY}/model_mxfp4 --max_steps 1 --save_steps 1 {flags}");
        let output = sft(&run, &flags).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(
            said.contains("step 1") && said.contains("that are not finite"),
            "{name}: {said}"
        );
        assert!(said.contains("optimizer "), "{name}: {said}");
        assert!(!run.join("checkpoint-1").exists(), "{name}");
    }
}
