//! `apus eval`, and answers in the evaluations of a run.

mod common;

use candle_core::{DType, Device, Tensor};
use common::training::{TINY, log, refuses, trains};
use common::{fails, folder, works};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

fn numbers(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A number of a model on a dataset.
#[track_caller]
fn number(report: &Value, set: usize, model: usize, name: &str) -> f64 {
    let found = &report["datasets"][set]["models"][model][name];
    found
        .as_f64()
        .unwrap_or_else(|| panic!("{name} of {set} {model}: {found}"))
}

/// The rows of a reference batch of the goldens, without padding, as a dataset of tokens.
fn rows(all: &HashMap<String, Tensor>, name: &str) -> String {
    let read = |part: &str| {
        let tensor = all[&format!("{name}.{part}")].to_dtype(DType::I64).unwrap();
        tensor.to_vec2::<i64>().unwrap()
    };
    let (ids, labels) = (read("input_ids"), read("labels"));
    let mask = match all.contains_key(&format!("{name}.attention_mask")) {
        true => read("attention_mask"),
        false => ids.iter().map(|row| vec![1; row.len()]).collect(),
    };
    let mut lines = String::new();
    for ((ids, labels), mask) in ids.iter().zip(&labels).zip(&mask) {
        let keep = |row: &[i64]| {
            let pairs = row.iter().zip(mask).filter(|(_, mask)| **mask == 1);
            pairs.map(|(id, _)| *id).collect::<Vec<_>>()
        };
        lines += &json!({"input_ids": keep(ids), "labels": keep(labels)}).to_string();
        lines.push('\n');
    }
    lines
}

#[test]
fn losses_are_those_of_transformers_and_peft() {
    let dir = folder("eval-goldens");
    let all = candle_core::safetensors::load(format!("{TINY}/forward.safetensors"), &Device::Cpu);
    let all = all.unwrap();
    let info = numbers(Path::new(&format!("{TINY}/info.json")));
    let names = ["short", "long", "batch"];
    let files = names.map(|name| {
        let path = dir.join(format!("{name}.jsonl"));
        fs::write(&path, rows(&all, name)).unwrap();
        path.display().to_string()
    });
    let kinds = ["attn", "attn_experts", "attn_rslora", "attn_dora"];
    let adapters = kinds.map(|kind| format!("{TINY}/adapter_grad_{kind}"));
    let json = dir.join("numbers.json");
    let said = works(&format!(
        "eval --model {TINY}/model_mxfp4 --adapters {} --val_dataset {} --device cpu --json {}",
        adapters.join(" "),
        files.join(" "),
        json.display()
    ));
    let report = numbers(&json);
    for (set, name) in names.iter().enumerate() {
        let expected = info["loss"][name]["loss"].as_f64().unwrap();
        let found = number(&report, set, 0, "loss");
        assert!(
            (found - expected).abs() < 1e-4,
            "{name}: {found} {expected}"
        );
        let tokens = number(&report, set, 0, "tokens");
        assert_eq!(json!(tokens as u64), info["loss"][name]["n_target_tokens"]);
        let perplexity = number(&report, set, 0, "perplexity");
        assert!((perplexity.ln() - found).abs() < 1e-9);
    }
    for (at, kind) in kinds.iter().enumerate() {
        let expected = info["lora_grads"][kind]["loss"].as_f64().unwrap();
        let found = number(&report, 2, at + 1, "loss");
        assert!(
            (found - expected).abs() < 1e-4,
            "{kind}: {found} {expected}"
        );
        let difference = &report["datasets"][2]["models"][at + 1]["difference"];
        let mean = difference["mean"].as_f64().unwrap();
        let base = number(&report, 2, 0, "loss");
        assert!((mean - (found - base)).abs() < 1e-9, "{kind}");
    }
    for part in [
        "adapter_grad_attn_dora",
        "against base",
        "perplexity",
        " ± ",
    ] {
        assert!(said.contains(part), "{part:?} not in:\n{said}");
    }
}

/// Losses and accuracies of evaluations in the log of a run, by step.
fn evaluations(run: &Path) -> Vec<(f64, f64)> {
    let lines = log(run).into_iter();
    let numbers = lines.filter_map(|line| {
        Some((
            line["eval_loss"].as_f64()?,
            line["eval_token_acc"].as_f64()?,
        ))
    });
    numbers.collect()
}

#[test]
fn a_checkpoint_has_the_loss_of_its_run() {
    let dir = folder("eval-run");
    let run = |name: &str, flags: &str| -> PathBuf {
        let run = dir.join(name);
        trains(
            &run,
            &format!(
                "--model {TINY}/model_bf16 --val_dataset {TINY}/chat_train.jsonl --eval_strategy steps --eval_steps 2 \
                 --save_steps 2 --max_steps 4 --gradient_accumulation_steps 1 --lora_rank 4 {flags}"
            ),
        );
        run
    };
    // Settings that a measurement without them would not have.
    let flags = "--loss_scale all --max_length 60 --truncation_strategy right --system Briefly. --train_header full \
                 --per_device_eval_batch_size 3 --router_aux_loss_coef 0.01";
    let plain = run("plain", flags);
    let whole = run("whole", &format!("{flags} --modules_to_save lm_head"));
    let dora = run("dora", &format!("{flags} --use_dora true"));
    let checkpoint =
        |run: &Path, step: u64| run.join(format!("checkpoint-{step}")).display().to_string();
    // An adapter that stores a module whole, between two that share the base.
    let order = [
        (&plain, 2),
        (&whole, 4),
        (&plain, 4),
        (&dora, 4),
        (&plain, 2),
    ];
    let adapters = order.map(|(run, step)| checkpoint(run, step));
    let json = dir.join("numbers.json");
    let said = works(&format!(
        "eval --adapters {} --val_dataset {TINY}/chat_train.jsonl --device cpu --per_device_eval_batch_size 3 --json {} \
         --learning_rate 1",
        adapters.join(" "),
        json.display()
    ));
    assert!(said.contains("lm_head is stored whole"), "{said}");
    assert!(
        said.contains("note: learning_rate: about training"),
        "{said}"
    );
    let report = numbers(&json);
    for (at, (run, step)) in order.iter().enumerate() {
        let (loss, accuracy) = evaluations(run)[(*step / 2 - 1) as usize];
        let found = number(&report, 0, at + 1, "loss");
        assert!((found - loss).abs() < 1e-6, "{at}: {found} {loss}");
        assert_eq!(number(&report, 0, at + 1, "token_acc"), accuracy, "{at}");
    }
    let rows = report["datasets"][0]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 8);
    let losses = |row: &Value| row["losses"].as_array().unwrap().len();
    assert!(rows.iter().all(|row| losses(row) == 6), "{rows:?}");
}

#[test]
fn answers_are_measured_in_a_run_and_afterwards() {
    let dir = folder("eval-answers");
    let run = dir.join("run");
    let flags = format!(
        "--model {TINY}/model_bf16 --val_dataset {TINY}/chat_train.jsonl --eval_strategy steps --eval_steps 4 --save_steps 4 \
         --max_steps 8 --gradient_accumulation_steps 1 --lora_rank 4 --max_new_tokens 12 --learning_rate 3e-2"
    );
    let metrics = "--metrics token_acc rouge exact_match chrf";
    refuses(
        &dir.join("refused"),
        &format!("{flags} {metrics}"),
        &[
            "metric rouge reads generated answers",
            "--predict_with_generate true",
        ],
    );
    assert!(!dir.join("refused").exists());
    refuses(
        &dir.join("refused"),
        &format!("{flags} --predict_with_generate true {metrics} --metric_for_best_model rouge-9"),
        &["did you mean rouge-", "chrf"],
    );
    refuses(
        &dir.join("refused"),
        &format!("{flags} --predict_with_generate true --eval_strategy no"),
        &["predict_with_generate needs evaluations"],
    );
    trains(
        &run,
        &format!(
            "{flags} --predict_with_generate true {metrics} --metric_for_best_model rouge-l --load_best_model_at_end true"
        ),
    );
    let lines: Vec<Value> = log(&run)
        .into_iter()
        .filter(|line| line.get("eval_loss").is_some())
        .collect();
    assert_eq!(lines.len(), 2);
    let predictions = fs::read_to_string(run.join("predict.jsonl")).unwrap();
    let predictions: Vec<Value> = predictions
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(predictions.len(), 16);

    let json = dir.join("numbers.json");
    let html = dir.join("pages/page.html");
    let checkpoints =
        [4, 8].map(|step| run.join(format!("checkpoint-{step}")).display().to_string());
    let said = works(&format!(
        "eval --adapters {} --val_dataset {TINY}/chat_train.jsonl --device cpu --max_new_tokens 12 {metrics} \
         --show_answers 2 --json {} --html {}",
        checkpoints.join(" "),
        json.display(),
        html.display()
    ));
    let report = numbers(&json);
    for (at, line) in lines.iter().enumerate() {
        for name in [
            "token_acc",
            "rouge-1",
            "rouge-2",
            "rouge-l",
            "exact_match",
            "chrf",
        ] {
            let logged = line[&format!("eval_{name}")].as_f64();
            let found = number(&report, 0, at + 1, name);
            assert!(
                (found - logged.unwrap()).abs() < 1e-9,
                "{name} {found} {logged:?}"
            );
        }
        let answers = report["datasets"][0]["answers"].as_array().unwrap();
        for (row, answer) in answers.iter().enumerate() {
            let predicted = &predictions[8 * at + row];
            assert_eq!(predicted["response"], answer["responses"][at + 1]);
            assert_eq!(predicted["labels"], answer["labels"]);
            assert_eq!(predicted["global_step"], json!(4 * (at + 1)));
        }
    }
    assert_eq!(
        predictions[0]["labels"],
        "The capital is a harbour town with white houses."
    );
    let shown = said.matches("\n--- ").count();
    assert!((1..=2).contains(&shown), "{said}");
    assert!(said.contains("rows are answered differently"), "{said}");
    let page = fs::read_to_string(&html).unwrap();
    assert!(
        page.contains("<td>checkpoint-8</td>") && page.contains("harbour town"),
        "{page}"
    );

    // Without a metric by name there are ms-swift's, beside that of tokens.
    let plain = dir.join("plain");
    trains(
        &plain,
        &format!("{flags} --max_steps 4 --predict_with_generate true"),
    );
    let line = log(&plain)
        .into_iter()
        .find(|line| line.get("eval_loss").is_some());
    for name in ["eval_token_acc", "eval_rouge-l", "eval_bleu-4"] {
        assert!(line.as_ref().unwrap()[name].is_f64(), "{name}");
    }
}

#[test]
fn what_cannot_be_measured_is_said() {
    let dir = folder("eval-errors");
    let bad = dir.join("bad.jsonl");
    fs::write(
        &bad,
        "{\"query\": \"a\"}\n{\"query\": \"b\", \"response\": \"c\"}\n{\"query\": 1}\n",
    )
    .unwrap();
    let bad = bad.display();
    let model = format!("--model {TINY}/model_bf16 --device cpu --current_date 2025-08-05");
    fails(
        "eval --val_dataset x.jsonl",
        2,
        &["--model or --adapters is missing"],
    );
    fails(&format!("eval {model}"), 2, &["--val_dataset is missing"]);
    fails(
        &format!("eval {model} --val_dataset nowhere.jsonl"),
        1,
        &["nowhere.jsonl"],
    );
    fails(
        &format!("eval {model} --val_dataset {bad} --metrics rog"),
        1,
        &["there is no metric \"rog\"; there are"],
    );
    fails(
        &format!("eval {model} --val_dataset {bad} --strict true"),
        1,
        &["bad.jsonl:"],
    );
    fails(
        &format!("eval {model} --adapters {TINY} --val_dataset {bad}"),
        1,
        &["adapter_config.json"],
    );
    let json = dir.join("numbers.json");
    let said = works(&format!(
        "eval {model} --val_dataset {bad} --metrics exact_match --max_new_tokens 2 --json {}",
        json.display()
    ));
    assert!(
        said.contains("2 of 3 rows are not answered; the first: "),
        "{said}"
    );
    let set = &numbers(&json)["datasets"][0];
    assert_eq!(
        (&set["rows_read"], &set["rows_left_out"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(set["models"][0]["model"], "base");
    assert!(set["models"][0]["standard_error"].is_null());
}

#[test]
fn infer_measures_what_it_answered() {
    let dir = folder("eval-infer");
    let answers = dir.join("answers.jsonl");
    let infer = |metrics: &str| {
        format!(
            "infer --model {TINY}/model_bf16 --val_dataset {TINY}/chat_train.jsonl --device cpu --current_date 2025-08-05 \
             --max_new_tokens 6 --temperature 0 --result_path {} --metric {metrics}",
            answers.display()
        )
    };
    fails(&infer("rog"), 1, &["there is no metric \"rog\""]);
    let said = works(&infer("chrf nlg token_acc"));
    let written = numbers(&dir.join("answers.metrics.json"));
    assert_eq!(written["rows"], 8);
    let json = dir.join("numbers.json");
    works(&format!(
        "eval --model {TINY}/model_bf16 --val_dataset {TINY}/chat_train.jsonl --device cpu --current_date 2025-08-05 \
         --max_new_tokens 6 --metrics chrf nlg token_acc --json {}",
        json.display()
    ));
    let report = numbers(&json);
    for name in ["rouge-1", "rouge-l", "bleu-4", "chrf"] {
        let value = number(&report, 0, 0, name);
        assert_eq!(written[name].as_f64(), Some(value), "{name}");
        assert!(
            said.contains(&format!("{name}: {value:.6}")),
            "{name}: {said}"
        );
    }
    // A file with all answers is measured again without a model.
    fs::remove_file(dir.join("answers.metrics.json")).unwrap();
    works(&infer("chrf"));
    let again = numbers(&dir.join("answers.metrics.json"));
    assert_eq!(again["chrf"], written["chrf"]);
    // Metrics of tokens come from a pass over the same rows.
    let loss = format!("{:.4}", number(&report, 0, 0, "loss"));
    assert!(said.contains("token_acc") && said.contains(&loss), "{said}");
}
