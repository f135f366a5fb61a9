//! Tuners in the matrices of each expert: what is saved, and what is merged.

use super::low_rank::{EXPERTS, Ended, resumed_and_merged};
use super::{MODEL, all_tensors, answer, config, pair, run, tensors, values};
use crate::common::training::{TINY, losses};
use crate::common::works;
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use std::path::Path;

const MATRICES: &str =
    "--train_type ia3 --target_modules none --target_parameters mlp.experts.down_proj";

/// A tensor's numbers as bf16 has them.
fn rounded(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::BF16).unwrap();
    let tensor = tensor.to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn f32(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::F32).unwrap()
}

#[test]
fn each_expert_has_parameters_of_its_own() {
    let home = tempfile::tempdir().unwrap();
    let checkpoint = run(&home.path().join("run"), MATRICES);
    let found = tensors(&checkpoint);
    assert_eq!(found.len(), 4);
    let (name, shape) = &found[0];
    assert_eq!(
        name,
        "base_model.model.model.layers.0.mlp.experts.down_proj.ia3_l"
    );
    assert_eq!(shape.as_slice(), [8, 64, 1]);
    let said = config(&checkpoint);
    // PEFT has low-rank updates of such parameters, and nothing else.
    assert_eq!(said["peft_type"], "APUS_TUNER");
    assert_eq!(
        said["target_parameters"][3],
        json!("model.layers.3.mlp.experts.down_proj")
    );
    let learnt = values(&checkpoint);
    let moved = learnt.values().flatten().filter(|value| **value != 1.0);
    assert!(moved.count() > 100);
}

/// Each expert's matrix and bias are scaled by its own numbers, in a base that is packed, too.
#[test]
fn experts_are_merged_one_by_one() {
    let home = tempfile::tempdir().unwrap();
    for form in ["model_bf16", "model_mxfp4"] {
        let at = |name: &str| home.path().join(format!("{form}-{name}"));
        let model = format!("{TINY}/{form}");
        let checkpoint = run(&at("run"), &format!("{MATRICES} --model {model}"));
        let merged = at("merged");
        let export = |flags: &str, to: &Path| {
            works(&format!(
                "export --model {model} --adapters {} --merge_lora true {flags} --output_dir {}",
                checkpoint.display(),
                to.display()
            ))
        };
        export("", &merged);
        let after = all_tensors(&merged.join("model.safetensors"));
        let scales = all_tensors(&checkpoint.join("adapter_model.safetensors"));
        // The golden model in bf16 has the numbers of the packed one.
        let before = all_tensors(&Path::new(MODEL).join("model.safetensors"));
        for layer in 0..4 {
            let name = format!("model.layers.{layer}.mlp.experts.down_proj");
            let scale = &scales[&format!("base_model.model.{name}.ia3_l")];
            let (weight, bias) = (&before[&name], &before[&format!("{name}_bias")]);
            let expected = f32(weight).broadcast_mul(&scale.transpose(1, 2).unwrap());
            assert_eq!(
                rounded(&after[&name]),
                rounded(&expected.unwrap()),
                "{name}"
            );
            assert_ne!(rounded(&after[&name]), rounded(weight), "{name}");
            let expected = (f32(bias) * scale.squeeze(2).unwrap()).unwrap();
            let bias = &after[&format!("{name}_bias")];
            assert_eq!(rounded(bias), rounded(&expected), "{name}");
        }
        let name = "model.layers.0.mlp.experts.gate_up_proj";
        assert_eq!(rounded(&after[name]), rounded(&before[name]));
        // Packing rounds far more; here it is enough that it is done.
        export("--quantize mxfp4", &at("packed"));
        let packed = all_tensors(&at("packed").join("model.safetensors"));
        assert!(packed.contains_key("model.layers.0.mlp.experts.down_proj_blocks"));
    }
}

/// Low-rank updates of experts under other names than PEFT's are saved as their tuner's, and the answers are the same.
#[test]
fn low_rank_updates_of_experts_of_any_rank_and_name() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let base = answer(home.path(), "base", &format!("--model {MODEL}"));
    for (name, options) in [("ranks", "deep_rank 2"), ("names", "renamed true")] {
        let flags = format!("{} {EXPERTS}", pair(options));
        let Ended {
            whole,
            merged,
            answer: with,
        } = resumed_and_merged(home.path(), &base, name, &flags);
        let first = |text: &str| -> Value {
            let all: Value = serde_json::from_str(text).unwrap();
            all[0].clone()
        };
        let alone = answer(
            home.path(),
            &format!("{name}-merged"),
            &format!("--model {}", merged.display()),
        );
        assert_eq!(first(&alone), first(&with), "{name}");
        assert_eq!(
            delta(&whole, &merged, name),
            0,
            "{name}: numbers of an expert's matrix that are not the sum"
        );
    }
    // Renamed, an update learns what it does by PEFT's names; initial values go by the name.
    assert_eq!(losses(&at("names")).len(), losses(&at("ranks")).len());
}

/// How many numbers of the last expert's matrix in the last layer differ from `W + 2 B A`.
fn delta(checkpoint: &Path, merged: &Path, kind: &str) -> usize {
    let (experts, rank) = (8, if kind == "ranks" { 2 } else { 4 });
    let updates = all_tensors(&checkpoint.join("adapter_model.safetensors"));
    let name = "model.layers.3.mlp.experts.down_proj";
    let key = |part: &str| match kind {
        "names" => format!("base_model.model.{name}.{part}"),
        _ => format!("base_model.model.model.layers.3.mlp.experts.{part}"),
    };
    let parts = match kind {
        "names" => ["down", "up"],
        _ => ["lora_A.weight", "lora_B.weight"],
    };
    let [a, b] = parts.map(|part| updates[&key(part)].clone());
    let a = a.narrow(0, (experts - 1) * rank, rank).unwrap();
    let b = b.reshape((b.dim(0).unwrap(), rank, experts)).unwrap();
    let b = b.narrow(2, experts - 1, 1).unwrap().squeeze(2).unwrap();
    let update = (b.contiguous().unwrap().matmul(&a).unwrap() * 2.0).unwrap();
    let update = match kind {
        "names" => update,
        // As PEFT merges experts.
        _ => f32(&update.to_dtype(DType::BF16).unwrap()),
    };
    let of = |dir: &Path| {
        let all = all_tensors(&dir.join("model.safetensors"));
        all[name]
            .get(experts - 1)
            .unwrap()
            .to_device(&Device::Cpu)
            .unwrap()
    };
    let expected = (f32(&of(Path::new(MODEL))) + update.t().unwrap()).unwrap();
    let (found, expected) = (rounded(&of(merged)), rounded(&expected));
    assert_ne!(found, rounded(&of(Path::new(MODEL))));
    let differing = found.iter().zip(&expected).filter(|(a, b)| a != b);
    differing.count()
}
