//! Low-rank updates that a library has written.

use super::{MODEL, all_tensors, answer, config, near, pair, plugin, run, values};
use crate::common::training::{TINY, losses, refuses, trains, weights};
use crate::common::works;
use candle_core::{DType, Tensor};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const ATTENTION: &str = "--target_modules q_proj k_proj v_proj o_proj";
pub(super) const EXPERTS: &str =
    "--target_modules q_proj --target_parameters mlp.experts.gate_up_proj mlp.experts.down_proj";

#[test]
fn a_low_rank_update_of_a_library_is_lora_to_the_bit() {
    let home = tempfile::tempdir().unwrap();
    let lora = "--lora_rank 4 --lora_alpha 8";
    for (number, (lora, own)) in [
        (
            format!("{lora} --lora_dropout 0 {ATTENTION}"),
            format!("{} {ATTENTION}", pair("")),
        ),
        (
            format!("{lora} --lora_dropout 0.1 --lorap_lr_ratio 4 {ATTENTION}"),
            format!("{} {ATTENTION}", pair("dropout 0.1 lr_factor 4")),
        ),
        (
            format!("{lora} --lora_dropout 0 --use_dora true {ATTENTION}"),
            format!("{} {ATTENTION}", pair("decomposed true")),
        ),
        (
            format!("{lora} --lora_dropout 0 {EXPERTS}"),
            format!("{} {EXPERTS}", pair("")),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let at = |name: &str| home.path().join(format!("{name}-{number}"));
        let expected = run(&at("lora"), &lora);
        let found = run(&at("own"), &own);
        assert_eq!(losses(&at("own")), losses(&at("lora")), "{own}");
        assert_eq!(weights(&found), weights(&expected), "{own}");
        // Whoever reads LoRA reads it, without the library.
        assert_eq!(config(&found), config(&expected), "{own}");
        let flags = format!("--adapters {}", found.display());
        assert_eq!(
            answer(home.path(), &format!("own-{number}"), &flags),
            answer(
                home.path(),
                &format!("lora-{number}"),
                &format!("--adapters {}", expected.display())
            ),
            "{own}"
        );
    }
}

#[test]
fn a_low_rank_update_begins_and_learns_as_its_tuner_says() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let flags = format!("{} {EXPERTS}", pair("frozen true deviation 0.05"));
    let whole = run(&at("whole"), &flags);
    let half = at("whole").join("checkpoint-2");
    let (before, after) = (values(&half), values(&whole));
    assert_eq!(before.len(), 24);
    for (name, value) in &before {
        assert_eq!(value == &after[name], name.contains("lora_A"), "{name}");
        let deviation = value.iter().map(|v| v * v).sum::<f32>() / value.len() as f32;
        assert!(deviation.sqrt() > 0.02, "{name}");
    }
    let resume = format!("{flags} --resume_from_checkpoint {}", half.display());
    let rest = run(&at("rest"), &resume);
    assert_eq!(losses(&at("rest")), losses(&at("whole"))[2..]);
    assert_eq!(weights(&rest), weights(&whole));
    let other = resume.replace("frozen true", "frozen false");
    refuses(
        &at("other"),
        &format!("--model {MODEL} --max_steps 4 {other}"),
        &["frozen"],
    );
}

/// Several ranks are PEFT's `rank_pattern`; for other names than PEFT's it has no form.
fn saved_as(config: &Value, kind: &str) {
    if kind == "names" {
        assert_eq!(config["apus_tuner"]["name"], "pair");
        return;
    }
    assert_eq!(
        (&config["r"], &config["lora_alpha"]),
        (&json!(4), &json!(8))
    );
    for (key, number) in [("rank_pattern", 2), ("alpha_pattern", 4)] {
        let found = config[key].as_object().unwrap();
        assert!(found.values().all(|value| *value == number), "{found:?}");
        let is_deep = |name: &String| name.contains("layers.2.") || name.contains("layers.3.");
        assert!(found.len() >= 6 && found.keys().all(is_deep), "{found:?}");
    }
}

/// Ranks and alphas by patterns, as PEFT has them: trained, resumed, trained on, answered with, merged, and given to vLLM.
#[test]
fn ranks_and_alphas_by_pattern() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let patterns = r#"--rank_pattern {"q_proj":2,"3.mlp.experts.down_proj":1} --alpha_pattern {"layers.[01].self_attn.q_proj":6}"#;
    let flags = format!("--lora_rank 4 --lora_alpha 8 --lora_dropout 0 {EXPERTS} {patterns}");
    let flags = flags.replace("--target_modules q_proj", "--target_modules q_proj v_proj");
    let whole = run(&at("whole"), &flags);
    let said = config(&whole);
    assert_eq!(
        (&said["r"], &said["peft_type"]),
        (&json!(4), &json!("LORA"))
    );
    assert_eq!(said["rank_pattern"].as_object().unwrap().len(), 5);
    assert_eq!(
        said["alpha_pattern"],
        json!({"model.layers.0.self_attn.q_proj": 6, "model.layers.1.self_attn.q_proj": 6})
    );
    let updates = all_tensors(&whole.join("adapter_model.safetensors"));
    let a = |module: &str| {
        updates[&format!("base_model.model.model.layers.{module}.lora_A.weight")].clone()
    };
    let rows = |module: &str| a(module).dims()[0];
    assert_eq!(
        (rows("0.self_attn.q_proj"), rows("0.self_attn.v_proj")),
        (2, 4)
    );
    assert_eq!((rows("3.mlp.experts"), rows("2.mlp.experts")), (8, 32));
    let half = at("whole").join("checkpoint-2");
    let resume = format!("{flags} --resume_from_checkpoint {}", half.display());
    assert_eq!(weights(&run(&at("rest"), &resume)), weights(&whole));
    let other = resume.replace(":6", ":5");
    refuses(
        &at("other"),
        &format!("--model {MODEL} --max_steps 4 {other}"),
        &["alpha_pattern"],
    );
    let adapter = format!("--adapters {}", whole.display());
    let on = run(&at("on"), &adapter);
    assert_eq!(config(&on)["rank_pattern"], said["rank_pattern"]);
    let base = answer(home.path(), "base", &format!("--model {MODEL}"));
    let with = answer(home.path(), "with", &adapter);
    assert_ne!(with, base);
    for (form, to) in [("merged", "--merge_lora true"), ("vllm", "--to_vllm true")] {
        works(&format!(
            "export {adapter} {to} --output_dir {}",
            at(form).display()
        ));
    }
    let merged = answer(
        home.path(),
        "merged",
        &format!("--model {}", at("merged").display()),
    );
    near(&merged, &with);
    let [before, after] = [Path::new(MODEL), at("merged").as_path()]
        .map(|dir| all_tensors(&dir.join("model.safetensors")));
    for (layer, scale) in [(1, 3.0), (2, 4.0)] {
        let module = format!("{layer}.self_attn.q_proj");
        let b = &updates[&format!("base_model.model.model.layers.{module}.lora_B.weight")];
        let update = (b.matmul(&a(&module)).unwrap() * scale).unwrap();
        let weight = format!("model.layers.{module}.weight");
        let sum = (before[&weight].to_dtype(DType::F32).unwrap() + update).unwrap();
        let bits = |tensor: &Tensor| {
            let tensor = tensor.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32);
            tensor
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        assert_eq!(bits(&after[&weight]), bits(&sum), "{layer}");
    }
    let uniform = config(&at("vllm"));
    assert_eq!(
        (&uniform["r"], &uniform["rank_pattern"]),
        (&json!(4), &json!({}))
    );
    let adapter = format!("--adapters {}", at("vllm").display());
    let uniform = answer(home.path(), "uniform", &adapter);
    near(&uniform, &with);
    for (flags, says) in [
        (r#"--rank_pattern {"q_proj":0}"#, "rank_pattern has 0"),
        (r#"--rank_pattern {"(":1}"#, "rank_pattern"),
        (
            r#"--train_type ia3 --rank_pattern {"q_proj":1}"#,
            "rank_pattern is set",
        ),
    ] {
        let run = format!("--model {TINY}/model_bf16 --max_steps 1 {flags}");
        refuses(&at("refused"), &run, &[says]);
    }
}

/// What is left of a run of a low-rank update that [`resumed_and_merged`] has made.
pub(super) struct Ended {
    pub(super) whole: PathBuf,
    pub(super) merged: PathBuf,
    /// By the adapter.
    pub(super) answer: String,
}

/// Trains with these flags: the checkpoint is as `saved_as` says, goes on from its half to the same weights, answers otherwise than the
/// base, and is merged.
pub(super) fn resumed_and_merged(home: &Path, base: &str, name: &str, flags: &str) -> Ended {
    let at = |name: &str| home.join(name);
    let whole = run(&at(name), flags);
    saved_as(&config(&whole), name);
    let half = at(name).join("checkpoint-2");
    let resume = format!("{flags} --resume_from_checkpoint {}", half.display());
    let rest = run(&at(&format!("{name}-rest")), &resume);
    assert_eq!(weights(&rest), weights(&whole), "{name}");
    let adapter = format!("--adapters {} {}", whole.display(), plugin());
    let with = answer(home, name, &adapter);
    assert_ne!(with, base);
    let merged = at(&format!("{name}-merged"));
    works(&format!(
        "export {adapter} --merge_lora true --output_dir {}",
        merged.display()
    ));
    Ended {
        whole,
        merged,
        answer: with,
    }
}

#[test]
fn low_rank_updates_of_any_rank_and_name_are_saved_and_merged() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let base = answer(home.path(), "base", &format!("--model {MODEL}"));
    for (name, options) in [("ranks", "deep_rank 2"), ("names", "renamed true")] {
        let flags = format!("{} {ATTENTION}", pair(&format!("{options} dropout 0.1")));
        let Ended { whole, merged, .. } = resumed_and_merged(home.path(), &base, name, &flags);
        let updates = all_tensors(&whole.join("adapter_model.safetensors"));
        let [before, after] = [Path::new(MODEL), merged.as_path()]
            .map(|dir| all_tensors(&dir.join("model.safetensors")));
        for layer in 0..4 {
            let module = format!("model.layers.{layer}.self_attn.v_proj");
            let key = |part: &str| format!("base_model.model.{module}.{part}");
            let [a, b] = match name {
                "names" => ["down", "up"],
                _ => ["lora_A.weight", "lora_B.weight"],
            };
            let [a, b] = [a, b].map(|part| &updates[&key(part)]);
            assert_eq!(
                a.dims()[0],
                if name == "ranks" && layer > 1 { 2 } else { 4 }
            );
            let weight = format!("{module}.weight");
            let update = (b.matmul(a).unwrap() * 2.0).unwrap();
            let sum = (before[&weight].to_dtype(DType::F32).unwrap() + update).unwrap();
            let flat = |tensor: &Tensor| -> Vec<f32> {
                let f32 = tensor.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32);
                f32.unwrap().flatten_all().unwrap().to_vec1().unwrap()
            };
            assert_eq!(flat(&after[&weight]), flat(&sum), "{name} {layer}");
            assert_ne!(
                flat(&after[&weight]),
                flat(&before[&weight]),
                "{name} {layer}"
            );
        }
    }
    let run = format!("--model {TINY}/model_bf16 --max_steps 1");
    for (flags, says) in [
        (
            format!("{} {EXPERTS} --target_modules none", pair("bent true")),
            &[
                "tuner pair of plugin asking-plugin",
                "gate_up_proj is no low-rank update",
                "y.low_rank",
            ][..],
        ),
        (
            format!("{} {EXPERTS}", pair("decomposed true")),
            &["gate_up_proj", "and magnitudes", "as in PEFT"][..],
        ),
        (
            format!("{} {ATTENTION}", pair("bent true")),
            &["lora_A.weight on", "is no low-rank update", "PEFT"][..],
        ),
        (
            format!("{} {ATTENTION}", pair("dropout 1")),
            &["tuner pair of plugin asking-plugin", "the dropout is 1"][..],
        ),
    ] {
        refuses(&at("refused"), &format!("{run} {flags}"), says);
    }
    // What is done beside an update is differentiated, and the update with it.
    for targets in [ATTENTION, EXPERTS] {
        trains(
            &at("bent"),
            &format!("{run} {} {targets}", pair("bent true renamed true")),
        );
    }
}
