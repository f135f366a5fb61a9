//! LISA: a few layers are trained at a time, and the others cost nothing and do not change.

mod common;

use candle_core::{Device, Tensor, safetensors};
use common::training::{TINY, losses, refuses, trains, weights};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

fn flags(more: &str) -> String {
    format!(
        "--model {TINY}/model_bf16 --train_type full --max_steps 6 --gradient_accumulation_steps 2 --save_steps 1 {more}"
    )
}

const LISA: &str = "--lisa_activated_layers 1 --lisa_step_interval 2";

fn tensors(checkpoint: &Path, file: &str) -> HashMap<String, Vec<f32>> {
    let all = safetensors::load(checkpoint.join(file), &Device::Cpu).unwrap();
    let values = |tensor: Tensor| {
        let tensor = tensor.to_dtype(candle_core::DType::F32).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    };
    all.into_iter()
        .map(|(name, tensor)| (name, values(tensor)))
        .collect()
}

/// The layer of a tensor; none of what is in no layer.
fn layer(name: &str) -> Option<u64> {
    let (_, rest) = name.split_once("layers.")?;
    rest.split('.').next()?.parse().ok()
}

#[test]
fn layers_that_are_not_drawn_neither_change_nor_cost_state() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("lisa");
    trains(&dir, &flags(LISA));
    let checkpoint = |step: u64| dir.join(format!("checkpoint-{step}"));
    let mut drawn = Vec::new();
    for step in [2, 4, 6] {
        let [before, after] =
            [step - 1, step].map(|step| tensors(&checkpoint(step), "model.safetensors"));
        let moved = before
            .iter()
            .filter(|(name, value)| after[*name] != **value);
        let moved: BTreeSet<Option<u64>> = moved.map(|(name, _)| layer(name)).collect();
        assert!(moved.contains(&None), "what is in no layer is trained");
        let layers: Vec<u64> = moved.into_iter().flatten().collect();
        assert_eq!(layers.len(), 1, "after step {step}: {layers:?}");
        drawn.push(layers[0]);
    }
    // Others are drawn after each interval, so that the state in its checkpoint is what the next steps need.
    let states: Vec<BTreeSet<u64>> = [1, 3, 5]
        .map(|step| {
            let state = tensors(&checkpoint(step), "optimizer.safetensors");
            state.keys().filter_map(|key| layer(key)).collect()
        })
        .into();
    for (state, layer) in states.iter().zip(&drawn) {
        assert_eq!(*state, BTreeSet::from([*layer]));
    }

    // The same layers frozen by hand.
    let plugin = common::library("freeze_by_schedule");
    let changes: Vec<String> = drawn
        .iter()
        .enumerate()
        .map(|(at, layer)| {
            let others = (0..4).filter(|other| other != layer);
            let others: Vec<String> = others.map(|other| format!("\"layers.{other}\"")).collect();
            format!(
                "{{\"step\":{},\"unfreeze\":[\"layers.{layer}\"],\"freeze\":[{}]}}",
                2 * at,
                others.join(",")
            )
        })
        .collect();
    let by_hand = home.path().join("by-hand");
    trains(
        &by_hand,
        &flags(&format!(
            "--plugin {} --callbacks freeze_by_schedule --callbacks.changes [{}]",
            plugin.display(),
            changes.join(",")
        )),
    );
    assert_eq!(losses(&by_hand), losses(&dir));
    assert!(weights(&by_hand.join("checkpoint-6")) == weights(&checkpoint(6)));

    for from in [1, 2, 3] {
        let rest = home.path().join(format!("rest-{from}"));
        let line = format!(
            "{LISA} --resume_from_checkpoint {}",
            checkpoint(from).display()
        );
        trains(&rest, &flags(&line));
        assert_eq!(losses(&rest), losses(&dir)[from as usize..]);
        assert!(weights(&rest.join("checkpoint-6")) == weights(&checkpoint(6)));
    }
}

#[test]
fn what_it_cannot_do_is_said_at_the_start() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    for (more, says) in [
        ("--lisa_activated_layers 9", "the model has 4 layers"),
        (
            "--train_type lora --lisa_activated_layers 1",
            "train_type is lora",
        ),
        ("--lisa_step_interval 3", "without lisa_activated_layers"),
        ("--train_type lora --callbacks lisa", "train_type is lora"),
    ] {
        refuses(&dir, &flags(more), &[says]);
    }
    // As in ms-swift, none is no LISA.
    trains(&dir, &flags("--lisa_activated_layers 0 --max_steps 1"));
}
