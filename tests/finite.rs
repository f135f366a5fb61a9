//! Losses and weights that are not finite end a run: nothing of them is saved.

mod common;

use common::training::{TINY, checkpoints, copy, refuses, said, sft, trains};
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

/// A gradient whose square overflows makes AdamW's second moment infinite, and its steps nothing, while every parameter
/// stays a number: the next save sees it, names it, and leaves what is on the disk.
#[test]
fn an_optimizers_state_that_is_not_finite_is_not_saved() {
    let home = tempfile::tempdir().unwrap();
    let flags = format!(
        "--model {TINY}/model_mxfp4 --gradient_accumulation_steps 1 --save_steps 2 --max_grad_norm 0"
    );
    let good = home.path().join("good");
    trains(&good, &format!("{flags} --max_steps 2"));
    let from = good.join("checkpoint-2");
    let run = home.path().join("run");
    let huge = format!(
        "{flags} --max_steps 6 --router_aux_loss_coef 1e30 --resume_from_checkpoint {} \
         --resume_changes router_aux_loss_coef max_steps",
        from.display()
    );
    let newest = format!(
        "The newest checkpoint is {0}: go on with --resume_from_checkpoint {0}",
        from.display()
    );
    refuses(
        &run,
        &huge,
        &[
            "checkpoint-4: cannot be saved",
            "optimizer adamw keeps numbers in",
            "that are not finite",
            &newest,
        ],
    );
    assert!(!run.join("checkpoint-4").exists());
    trains(
        &home.path().join("rest"),
        &format!(
            "{flags} --max_steps 4 --resume_changes max_steps --resume_from_checkpoint {}",
            from.display()
        ),
    );
    let run = home.path().join("first");
    refuses(
        &run,
        &format!("{flags} --max_steps 2 --router_aux_loss_coef 1e30"),
        &["that are not finite", "There is no checkpoint yet"],
    );
}

/// A step of a built-in optimizer cannot be taken back: what it leaves is no checkpoint, and the last one is named.
#[test]
fn a_torn_step_is_not_saved() {
    let home = tempfile::tempdir().unwrap();
    // The rate is 0 in the first step, and in the second the decay takes all weights out of what f32 holds.
    let flags = format!(
        "--model {TINY}/model_mxfp4 --gradient_accumulation_steps 1 --lr_scheduler_type constant_with_warmup \
         --warmup_steps 4 --weight_decay 1e50 --max_steps 9"
    );
    let step = ["step 2: optimizer adamw left values in", "not finite"];
    let run = home.path().join("unsaved");
    let said = refuses(&run, &format!("{flags} --save_strategy no"), &step);
    let end = "The state after step 1 is not saved: the optimizer was in the middle of the next step. There is no \
               checkpoint yet";
    assert!(said.contains(end), "{said}");
    assert_eq!(checkpoints(&run), [0; 0]);
    let run = home.path().join("saved");
    let said = refuses(&run, &format!("{flags} --save_steps 1"), &step);
    let saved = run.join("checkpoint-1");
    let end = format!(
        "The state after step 1 is saved in {}: go on",
        saved.display()
    );
    assert!(said.contains(&end), "{said}");
    assert_eq!(checkpoints(&run), [1]);
}
