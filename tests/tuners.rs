//! Tuners, built in and of a plugin library: trained, gone on with, answered with, merged or refused.

mod common;

use candle_core::{DType, Device, Tensor};
use common::training::{TINY, losses, refuses, trains, weights};
use common::{fails, works};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny/model_bf16");

fn plugin() -> String {
    let library = common::library("asking_plugin");
    format!("--plugin {}", library.display())
}

/// A tuner as it is trained here: a name, its flags, the component, and whether it can be merged.
struct Case {
    name: &'static str,
    flags: String,
    tuner: &'static str,
    is_merged: bool,
}

fn tuners() -> Vec<Case> {
    let bottleneck = format!("--train_type bottleneck --train_type.width 3 {}", plugin());
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
    ];
    let case = |(name, flags, tuner, is_merged): (&'static str, &str, &'static str, bool)| Case {
        name,
        flags: format!("{flags} --gradient_accumulation_steps 2"),
        tuner,
        is_merged,
    };
    cases.map(case).into()
}

/// The flags of the tuner of the library.
fn bottleneck() -> String {
    let mut cases = tuners().into_iter();
    cases.find(|case| case.name == "bottleneck").unwrap().flags
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
                "merged",
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
            "export {adapter} --to_vllm true --output_dir {}",
            merged.display()
        );
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
            "--train_type ia3 --target_parameters mlp.experts.down_proj".to_owned(),
            &["tuner ia3", "target_parameters"][..],
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

#[test]
fn what_a_tuner_has_trained_is_trained_on_by_it_alone() {
    let home = tempfile::tempdir().unwrap();
    let dir = |name: &str| home.path().join(name);
    let first = run(&dir("first"), &bottleneck());
    let on = format!("--adapters {} {}", first.display(), plugin());
    let second = run(&dir("second"), &on);
    assert_eq!(config(&second)["apus_tuner"], config(&first)["apus_tuner"]);
    assert_ne!(weights(&second), weights(&first));
    let flags = format!("--model {MODEL} --max_steps 1");
    refuses(
        &dir("other"),
        &format!("{flags} {on} --train_type ia3"),
        &["tuner bottleneck", "train_type is another one"],
    );
    refuses(
        &dir("without"),
        &format!("{flags} --adapters {}", first.display()),
        &["there is no tuner \"bottleneck\"", "--plugin"],
    );
}

#[test]
fn a_library_is_checked() {
    let library = plugin().replace("--plugin ", "");
    // Other components of the library do wrong on purpose.
    let said = common::fails(&format!("plugin check {library} --device cpu"), 1, &[]);
    let of = |tuner: &str| -> String {
        let mut lines = said.lines().skip_while(|line| !line.starts_with(tuner));
        let first = lines.next().unwrap_or_default();
        let rest = lines.take_while(|line| line.starts_with(' '));
        [first]
            .into_iter()
            .chain(rest)
            .collect::<Vec<_>>()
            .join("\n")
    };
    for (tuner, merged) in [
        ("tuner bottleneck", "which export refuses by name"),
        ("tuner pair", "ok    merged: computes the same"),
    ] {
        let said = of(tuner);
        assert!(said.starts_with(tuner) && !said.contains("FAIL"), "{said}");
        assert!(
            said.contains("ok    gradient against finite differences"),
            "{said}"
        );
        assert!(said.contains(merged), "{said}");
    }
    let pair = of("tuner pair");
    assert!(
        pair.contains("a low-rank update of lora_A.weight [4, 6]"),
        "{pair}"
    );
}

const ATTENTION: &str = "--target_modules q_proj k_proj v_proj o_proj";
const EXPERTS: &str =
    "--target_modules q_proj --target_parameters mlp.experts.gate_up_proj mlp.experts.down_proj";

fn pair(options: &str) -> String {
    let mut line = format!("--train_type pair {}", plugin());
    for option in options.split_whitespace().collect::<Vec<_>>().chunks(2) {
        line += &format!(" --train_type.{} {}", option[0], option[1]);
    }
    line
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
            format!("{} {EXPERTS}", pair("renamed true")),
            &["tuner pair of plugin asking-plugin", "as PEFT has them"][..],
        ),
        (
            format!("{} {EXPERTS}", pair("bent true renamed true")),
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
            &["lora_A.weight", "is no low-rank update", "PEFT"][..],
        ),
        (
            format!("{} {ATTENTION}", pair("dropout 1")),
            &["tuner pair of plugin asking-plugin", "the dropout is 1"][..],
        ),
    ] {
        refuses(&at("refused"), &format!("{run} {flags}"), says);
    }
    // What is done beside an update is differentiated, and the update with it.
    trains(
        &at("bent"),
        &format!("{run} {} {ATTENTION}", pair("bent true renamed true")),
    );
}

/// LLaMA Pro: a deeper model computes what the model does, until its new blocks are trained, which they are alone.
#[test]
fn added_blocks_are_a_model_of_their_own() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    for form in ["model_bf16", "model_mxfp4"] {
        let (base, deeper) = (format!("{TINY}/{form}"), at(&format!("{form}-deeper")));
        let said = works(&format!(
            "export --model {base} --to llamapro --to.num_new_blocks 2 --output_dir {}",
            deeper.display()
        ));
        let flags = "--target_modules none --modules_to_save layers.2 layers.5";
        assert!(said.contains(flags), "{said}");
        let deep = format!("--model {}", deeper.display());
        let answer = |name: &str, flags: &str| answer(&at(form), name, flags);
        fs::create_dir(at(form)).unwrap();
        let before = answer("before", &format!("--model {base}"));
        assert_eq!(answer("deeper", &deep), before, "{form}");
        let flags = format!("{deep} --learning_rate 1e-3 {flags}");
        let whole = run(&at(&format!("{form}-whole")), &flags);
        let names: Vec<String> = tensors(&whole).into_iter().map(|(name, _)| name).collect();
        let is_new = |name: &String| name.contains("layers.2.") || name.contains("layers.5.");
        assert!(names.iter().all(is_new), "{names:?}");
        assert!(
            names
                .iter()
                .any(|name| name.ends_with("mlp.experts.down_proj")),
            "{names:?}"
        );
        let half = at(&format!("{form}-whole")).join("checkpoint-2");
        let rest = run(
            &at(&format!("{form}-rest")),
            &format!("{flags} --resume_from_checkpoint {}", half.display()),
        );
        assert_eq!(weights(&rest), weights(&whole), "{form}");
        let adapter = format!("--adapters {}", whole.display());
        assert_ne!(answer("with", &adapter), before, "{form}");
        let merged = at(&format!("{form}-merged"));
        works(&format!(
            "export {adapter} --merge_lora true --output_dir {}",
            merged.display()
        ));
        let alone = answer("alone", &format!("--model {}", merged.display()));
        assert_ne!(alone, before, "{form}");
        let text = fs::read_to_string(merged.join("config.json")).unwrap();
        let layers = serde_json::from_str::<Value>(&text).unwrap()["num_hidden_layers"].clone();
        assert_eq!(layers, 6, "{form}");
    }
    let said = fails(
        &format!(
            "export --model {MODEL} --to llamapro --to.num_new_blocks 3 --output_dir {}",
            at("three").display()
        ),
        1,
        &["3 blocks", "4 layers", "divides"],
    );
    assert!(!at("three").exists(), "{said}");
}
