//! Low-rank updates that a library has written.

use super::{MODEL, all_tensors, answer, config, pair, plugin, run, values};
use crate::common::training::{TINY, losses, refuses, trains, weights};
use crate::common::works;
use candle_core::{DType, Tensor};
use std::path::Path;

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

#[test]
fn low_rank_updates_that_peft_has_no_form_for_are_saved_as_their_tuners() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let base = answer(home.path(), "base", &format!("--model {MODEL}"));
    for (name, options) in [("ranks", "deep_rank 2"), ("names", "renamed true")] {
        let flags = format!("{} {ATTENTION}", pair(&format!("{options} dropout 0.1")));
        let whole = run(&at(name), &flags);
        assert_eq!(config(&whole)["apus_tuner"]["name"], "pair");
        let half = at(name).join("checkpoint-2");
        let resume = format!("{flags} --resume_from_checkpoint {}", half.display());
        let rest = run(&at(&format!("{name}-rest")), &resume);
        assert_eq!(weights(&rest), weights(&whole), "{name}");
        let adapter = format!("--adapters {} {}", whole.display(), plugin());
        let with = answer(home.path(), name, &adapter);
        assert_ne!(with, base);
        let merged = at(&format!("{name}-merged"));
        let export = format!(
            "export {adapter} --merge_lora true --output_dir {}",
            merged.display()
        );
        works(&export);
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
