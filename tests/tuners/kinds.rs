//! Each kind of tuner goes through all that can be done with one.

use super::{MODEL, answer, bottleneck, config, plugin, run, tensors};
use crate::common::training::{TINY, losses, refuses, weights};
use crate::common::{fails, works};
use serde_json::{Value, json};

/// A tuner as it is trained here: a name, its flags, the component, and whether it can be merged.
struct Case {
    name: &'static str,
    flags: String,
    tuner: &'static str,
    is_merged: bool,
}

fn tuners() -> Vec<Case> {
    let bottleneck = format!("--train_type bottleneck --train_type.width 3 {}", plugin());
    let aside = format!("--train_type aside {}", plugin());
    let of_experts = format!("{bottleneck} --target_parameters mlp.experts.down_proj");
    let cases = [
        ("ia3", "--tuner_type ia3", "ia3", true),
        ("bottleneck", bottleneck.as_str(), "bottleneck", false),
        (
            "adapter",
            "--train_type adapter --adapter_length 3 --adapter_act relu",
            "adapter",
            false,
        ),
        (
            "reft",
            "--train_type reft --reft_rank 2 --reft_layers 1 3",
            "reft",
            false,
        ),
        (
            "blocks",
            "--train_type ia3 --target_modules experts 2.mlp layers.1 q_proj",
            "ia3",
            false,
        ),
        (
            "matrices",
            "--train_type ia3 --target_parameters mlp.experts.gate_up_proj 1.mlp.experts.down_proj \
             --train_type.feedforward_modules down_proj --target_modules k_proj",
            "ia3",
            true,
        ),
        ("bottleneck-matrices", &of_experts, "bottleneck", false),
        ("aside", &aside, "aside", false),
        (
            "pissa",
            "--init_weights pissa --lora_rank 4 --target_modules q_proj \
             --target_parameters 1.mlp.experts.down_proj 2.mlp.experts.gate_up_proj",
            "pissa",
            true,
        ),
    ];
    let case = |(name, flags, tuner, is_merged): (&'static str, &str, &'static str, bool)| Case {
        name,
        flags: format!("{flags} --gradient_accumulation_steps 2"),
        tuner,
        is_merged,
    };
    cases.map(case).into()
}

#[test]
fn a_run_goes_on_bit_for_bit_and_recomputes_the_same() {
    for Case { name, flags, .. } in tuners() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let whole = run(&at("whole"), &flags);
        let all = losses(&at("whole"));
        assert!(
            all.iter()
                .all(|(_, loss, norm)| loss.is_finite() && *norm > 0.0),
            "{name}"
        );
        let half = at("whole").join("checkpoint-2");
        assert_ne!(weights(&half), weights(&whole), "{name}");
        let rest = run(
            &at("rest"),
            &format!("{flags} --resume_from_checkpoint {}", half.display()),
        );
        assert_eq!(losses(&at("rest")), all[2..], "{name}");
        assert_eq!(weights(&rest), weights(&whole), "{name}");
        let kept = run(
            &at("kept"),
            &format!("{flags} --gradient_checkpointing false"),
        );
        assert_eq!(weights(&kept), weights(&whole), "{name}");
    }
}

#[test]
fn ia3_is_saved_as_peft_does() {
    let home = tempfile::tempdir().unwrap();
    let ia3 = run(&home.path().join("run"), &tuners()[0].flags);
    let found = config(&ia3);
    for (key, expected) in [
        ("peft_type", json!("IA3")),
        ("feedforward_modules", json!([])),
        ("task_type", json!("CAUSAL_LM")),
    ] {
        assert_eq!(found[key], expected, "{key}");
    }
    let tensors = tensors(&ia3);
    assert_eq!(tensors.len(), 8);
    let name = "base_model.model.model.layers.0.self_attn.k_proj.ia3_l";
    assert!(
        tensors
            .iter()
            .any(|(found, shape)| found == name && shape.len() == 2 && shape[1] == 1)
    );
}

/// A block is saved under the path of its module.
#[test]
fn blocks_are_saved_by_their_names() {
    let home = tempfile::tempdir().unwrap();
    let names = |case: &Case| -> Vec<String> {
        let checkpoint = run(&home.path().join(case.name), &case.flags);
        let names = tensors(&checkpoint).into_iter().map(|(name, _)| name);
        names
            .map(|name| name.replace("base_model.model.model.layers.", ""))
            .collect()
    };
    let cases = tuners();
    let of = |name: &str| names(cases.iter().find(|case| case.name == name).unwrap());
    let reft: Vec<String> = [1, 3]
        .iter()
        .flat_map(|layer| {
            [
                "learned_source.bias",
                "learned_source.weight",
                "rotate_layer",
            ]
            .map(|name| format!("{layer}.reft.{name}"))
        })
        .collect();
    assert_eq!(of("reft"), reft);
    let blocks = of("blocks");
    for name in [
        "0.mlp.experts.ia3_l",
        "2.mlp.ia3_l",
        "1.ia3_l",
        "0.self_attn.q_proj.ia3_l",
    ] {
        assert!(
            blocks.iter().any(|found| found == name),
            "{name}: {blocks:?}"
        );
    }
    assert_eq!(blocks.len(), 10);
    // PEFT's IA3 is of linear layers.
    let checkpoint = home.path().join("blocks/checkpoint-4");
    assert_eq!(config(&checkpoint)["peft_type"], "APUS_TUNER");
    assert!(of("adapter").contains(&"3.mlp.adapter.linear1.weight".to_owned()));
}

#[test]
fn a_tuner_answers_and_is_merged_or_refused() {
    let home = tempfile::tempdir().unwrap();
    let base = answer(home.path(), "base", &format!("--model {MODEL}"));
    for Case {
        name,
        flags,
        tuner,
        is_merged,
    } in tuners()
    {
        let checkpoint = run(&home.path().join(name), &flags);
        let adapter = format!("--adapters {} {}", checkpoint.display(), plugin());
        let with = answer(home.path(), name, &adapter);
        assert_ne!(with, base, "{name}");
        let merged = home.path().join(format!("{name}-merged"));
        let export = format!(
            "export {adapter} --merge_lora true --output_dir {}",
            merged.display()
        );
        if is_merged {
            works(&export);
            let first = |text: &str| -> Value {
                let all: Value = serde_json::from_str(text).unwrap();
                all[0].clone()
            };
            let alone = answer(
                home.path(),
                &format!("{name}-merged"),
                &format!("--model {}", merged.display()),
            );
            // The merged weights are rounded to the type of the base.
            assert_eq!(first(&alone), first(&with));
            assert_ne!(alone, base);
        } else {
            fails(
                &export,
                1,
                &[&format!("tuner {tuner}"), "cannot be merged", "--adapters"],
            );
            assert!(!merged.exists());
        }
        let vllm = format!(
            "export {adapter} --to_vllm true --output_dir {}-vllm",
            merged.display()
        );
        if name == "pissa" {
            works(&vllm);
            continue;
        }
        fails(
            &vllm,
            1,
            &[
                &format!("tuner {tuner}"),
                "vLLM takes low-rank updates alone",
            ],
        );
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("run");
    let bottleneck = &bottleneck();
    let run = format!("--model {TINY}/model_bf16 --max_steps 1");
    for (flags, says) in [
        (
            "--train_type ia4".to_owned(),
            &["train_type \"ia4\"", "there is no tuner", "ia3"][..],
        ),
        (
            "--train_type ia3 --train_type.width 3".to_owned(),
            &["tuner ia3", "width"][..],
        ),
        (
            "--train_type reft --reft_layers 7".to_owned(),
            &["layers.7", "matches nothing", "its blocks are mlp, experts"][..],
        ),
        (
            "--train_type reft --reft_rank 4000".to_owned(),
            &["tuner reft", "the rank is 4000"][..],
        ),
        (
            "--train_type adapter --adapter_act maxout".to_owned(),
            &["maxout", "gelu"][..],
        ),
        (
            "--train_type lora --target_modules mlp".to_owned(),
            &["a group of modules"][..],
        ),
        (
            "--train_type ia3 --target_parameters mlp.experts.up_proj".to_owned(),
            &["mlp.experts.up_proj", "target_parameters"][..],
        ),
        (
            "--train_type ia3 --use_dora true".to_owned(),
            &["use_dora is set"][..],
        ),
        (
            "--train_type ia3 --target_modules lm_head".to_owned(),
            &["the output head"][..],
        ),
        (
            format!("{bottleneck} --train_type.fails parameters"),
            &[
                "tuner bottleneck of plugin asking-plugin",
                "no parameters today",
            ][..],
        ),
        (
            "--init_weights pissa --use_dora true".to_owned(),
            &["use_dora is set", "init_weights pissa"][..],
        ),
        (
            "--init_weights pissa --lora_rank 200 --target_modules k_proj".to_owned(),
            &["tuner pissa", "the rank is 200", "k_proj"][..],
        ),
        (
            format!("{bottleneck} --train_type.fails initial"),
            &[
                "tuner bottleneck of plugin asking-plugin",
                "no beginning today",
                "o_proj",
            ][..],
        ),
        (
            format!("{bottleneck} --train_type.fails output"),
            &[
                "tuner bottleneck of plugin asking-plugin",
                "no output today",
                "o_proj",
            ][..],
        ),
        (
            format!("{bottleneck} --train_type.fails panic"),
            &[
                "tuner bottleneck of plugin asking-plugin",
                "a panic of the tuner",
            ][..],
        ),
    ] {
        refuses(&dir, &format!("{run} {flags}"), says);
    }
}
