//! The loss of each channel (`enable_channel_loss`): two groups of rows, told apart in the log of a run.
//!
//! With a learning rate of 0 the weights stay, so that the loss of a group is the same number whether its rows are
//! trained among others or alone; a run of one group's rows alone gives that number by `eval_loss`, another way.

mod common;

use common::training::{TINY, log, refuses, said, sft, trains, weights};
use common::works;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const MODEL: &str = "--num_train_epochs 1 --enable_channel_loss true --save_strategy no";
/// Everything in one step, so that one line of the log has all rows in it.
const ONE_STEP: &str =
    "--gradient_accumulation_steps 8 --learning_rate 0 --eval_strategy steps --eval_steps 1";

fn model() -> String {
    format!("--model {TINY}/model_mxfp4 {MODEL}")
}

/// The tiny model's conversations in a file; each row's channel is what `channel` says of its number.
fn file(dir: &Path, name: &str, channel: impl Fn(usize) -> Option<Value>) -> PathBuf {
    let text = fs::read_to_string(format!("{TINY}/chat_train.jsonl")).unwrap();
    let mut lines = String::new();
    for (number, line) in text.lines().enumerate() {
        let mut row: Value = serde_json::from_str(line).unwrap();
        match channel(number) {
            Some(Value::Bool(false)) => continue,
            Some(channel) => row["channel"] = channel,
            None => {}
        }
        lines += &format!("{row}\n");
    }
    let path = dir.join(name);
    fs::write(&path, lines).unwrap();
    path
}

fn odd_and_even(number: usize) -> Option<Value> {
    Some(if number % 2 == 1 { "odd" } else { "even" }.into())
}

fn only(which: usize) -> impl Fn(usize) -> Option<Value> {
    move |number| (number % 2 != which).then_some(Value::Bool(false))
}

/// The numbers of channels in each line of the log that has any.
fn channels(run: &Path) -> Vec<BTreeMap<String, f64>> {
    let of_line = |line: &Value| {
        let line = line.as_object().unwrap().iter();
        let ours =
            line.filter(|(key, _)| key.starts_with("loss_") || key.starts_with("eval_loss_"));
        let ours = ours.map(|(key, value)| (key.clone(), value.as_f64().unwrap()));
        ours.collect::<BTreeMap<_, _>>()
    };
    let lines = log(run);
    let lines = lines.iter().map(of_line);
    lines.filter(|line| !line.is_empty()).collect()
}

fn number(run: &Path, key: &str) -> f64 {
    let lines = log(run);
    let found = lines.iter().find_map(|line| line.get(key)?.as_f64());
    found.unwrap_or_else(|| panic!("no {key} in {lines:#?}"))
}

#[track_caller]
fn close(found: f64, expected: f64, within: f64) {
    assert!(
        (found - expected).abs() <= within,
        "{found}, expected {expected}"
    );
}

#[test]
fn each_group_has_the_loss_of_its_rows() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let both = file(dir, "both.jsonl", odd_and_even).display().to_string();
    // What each group's rows give where they are evaluated alone.
    let alone = [0, 1].map(|which| {
        let rows = file(dir, &format!("{which}.jsonl"), only(which));
        let run = dir.join(format!("alone-{which}"));
        let flags = format!(
            "{} {ONE_STEP} --dataset {both} --val_dataset {}",
            model(),
            rows.display()
        );
        trains(&run, &flags);
        (number(&run, "eval_loss"), number(&run, "eval_loss_None"))
    });
    let [(even, even_none), (odd, odd_none)] = alone;
    assert_eq!((even, odd), (even_none, odd_none));
    assert!(
        (even - odd).abs() > 1e-3,
        "the groups have one loss: {even}"
    );
    let ways = [
        ("plain", "", 1e-6),
        ("packed", "--packing true --max_length 512", 1e-5),
        ("streamed", "--streaming true --max_steps 1", 1e-6),
        (
            "streamed-packed",
            "--streaming true --max_steps 1 --packing true --max_length 512 --gradient_accumulation_steps 3",
            1e-5,
        ),
        (
            "batches",
            "--per_device_train_batch_size 4 --gradient_accumulation_steps 2",
            1e-5,
        ),
        (
            "accumulated",
            "--gradient_accumulation_steps 1 --logging_steps 8 --logging_first_step false --eval_steps 8",
            1e-6,
        ),
    ];
    for (name, way, within) in ways {
        let run = dir.join(name);
        let flags = format!(
            "{} {ONE_STEP} --dataset {both} --val_dataset {both} {way}",
            model()
        );
        trains(&run, &flags);
        let found = channels(&run);
        let names: Vec<Vec<&str>> = found
            .iter()
            .map(|line| line.keys().map(String::as_str).collect())
            .collect();
        assert_eq!(
            names,
            [
                ["loss_even", "loss_odd"],
                ["eval_loss_even", "eval_loss_odd"]
            ],
            "{name}"
        );
        close(found[0]["loss_even"], even, within);
        close(found[0]["loss_odd"], odd, within);
        close(found[1]["eval_loss_even"], even, 1e-9);
        close(found[1]["eval_loss_odd"], odd, 1e-9);
    }
}

#[test]
fn weights_count_as_they_do_in_the_loss() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    let rows = file(home.path(), "rows.jsonl", |_| Some("all".into()));
    let text = fs::read_to_string(&rows).unwrap();
    let heavy = text.replace(
        "\"role\":\"assistant\"",
        "\"role\":\"assistant\",\"loss_scale\":2.5",
    );
    assert_ne!(text, heavy);
    fs::write(&rows, heavy).unwrap();
    let flags = format!(
        "{} --gradient_accumulation_steps 2 --dataset {}",
        model(),
        rows.display()
    );
    trains(&run, &flags);
    let lines = log(&run);
    let steps: Vec<_> = lines
        .iter()
        .filter(|line| line.get("loss").is_some())
        .collect();
    assert_eq!(steps.len(), 4);
    for line in steps {
        let (loss, all) = (
            line["loss"].as_f64().unwrap(),
            line["loss_all"].as_f64().unwrap(),
        );
        assert!(loss > 5.0, "the weights count: {loss}");
        close(all, loss, 1e-9 * loss);
    }
}

#[test]
fn without_the_flag_nothing_else_is_reported_and_with_it_nothing_else_changes() {
    let home = tempfile::tempdir().unwrap();
    let [with, without] = ["with", "without"].map(|name| home.path().join(name));
    let rows = file(home.path(), "rows.jsonl", odd_and_even);
    let flags = format!(
        "{} --gradient_accumulation_steps 2 --save_strategy epoch --dataset {}",
        model(),
        rows.display()
    );
    trains(&with, &flags);
    trains(&without, &format!("{flags} --enable_channel_loss false"));
    assert!(channels(&without).is_empty());
    assert_eq!(channels(&with).len(), 4);
    let name = "checkpoint-4";
    assert_eq!(weights(&with.join(name)), weights(&without.join(name)));
    let losses =
        |run: &Path| -> Vec<Value> { log(run).iter().map(|line| line["loss"].clone()).collect() };
    assert_eq!(losses(&with), losses(&without));
    let state = |run: &Path| fs::read_to_string(run.join(name).join("trainer_state.json")).unwrap();
    assert!(state(&with).contains("loss_odd"));
    assert!(!state(&without).contains("channel"));
}

#[test]
fn a_resumed_run_counts_on() {
    let home = tempfile::tempdir().unwrap();
    let [whole, rest] = ["whole", "rest"].map(|name| home.path().join(name));
    let rows = file(home.path(), "rows.jsonl", |number| match number % 3 {
        0 => None,
        1 => Some("one".into()),
        _ => Some("".into()),
    });
    // The checkpoint lies inside of a window of the log.
    let flags = format!(
        "{} --save_strategy steps --save_steps 3 --max_steps 8 --gradient_accumulation_steps 1 --logging_steps 4 \
         --dataset {} --train_dataloader_shuffle false --dataset_shuffle false",
        model(),
        rows.display()
    );
    trains(&whole, &flags);
    let from = whole.join("checkpoint-3");
    let state = fs::read_to_string(from.join("trainer_state.json")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    let pending = state["pending"]["channels"].as_object().unwrap();
    assert_eq!(pending.keys().collect::<Vec<_>>(), ["None", "one"]);
    trains(
        &rest,
        &format!("{flags} --resume_from_checkpoint {}", from.display()),
    );
    let (all, later) = (channels(&whole), channels(&rest));
    assert_eq!((all.len(), later.len()), (3, 2));
    assert_eq!(all[1..], later);
    assert_eq!(all[1].keys().collect::<Vec<_>>(), ["loss_None", "loss_one"]);
}

#[test]
fn kept_data_keeps_its_channels() {
    let home = tempfile::tempdir().unwrap();
    let rows = file(home.path(), "rows.jsonl", odd_and_even);
    let tokens = home.path().join("tokens.jsonl");
    let look = format!(
        "data {} --model {TINY}/model_mxfp4 --current_date 2025-08-05 --samples 0 --out {}",
        rows.display(),
        tokens.display()
    );
    let shown = works(&look);
    let line = shown
        .lines()
        .find(|line| line.contains("even"))
        .unwrap_or_else(|| panic!("{shown}"));
    let cells: Vec<&str> = line
        .split(['\u{2502}', '\u{2506}'])
        .map(str::trim)
        .collect();
    assert_eq!(cells[..3], ["", "even", "4"], "{shown}");
    let first = fs::read_to_string(&tokens).unwrap();
    assert!(first.lines().all(|line| line.contains("\"channel\":\"")));

    let flags = |dataset: &Path| {
        format!(
            "{} {ONE_STEP} --load_from_cache_file true --dataset {}",
            model(),
            dataset.display()
        )
    };
    let run = |name: &str, dataset: &Path| {
        let dir = home.path().join(name);
        let mut command = sft(&dir, &flags(dataset));
        let output = command
            .env("APUS_CACHE", home.path().join("cache"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
        (said(&output), channels(&dir))
    };
    let (_, first) = run("first", &rows);
    let (second_said, second) = run("second", &rows);
    assert!(second_said.contains("rows from "), "{second_said}");
    assert_eq!(first, second);
    assert_eq!(
        first[0].keys().collect::<Vec<_>>(),
        ["loss_even", "loss_odd"]
    );
    // Rows of tokens carry a channel as well.
    assert_eq!(first, run("tokens", &tokens).1);
}

#[test]
fn the_best_checkpoint_may_go_by_a_channel() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    let rows = file(home.path(), "rows.jsonl", odd_and_even);
    let flags = format!(
        "{} --save_strategy epoch --num_train_epochs 3 --gradient_accumulation_steps 4 --dataset {} --val_dataset {}",
        model(),
        rows.display(),
        rows.display()
    );
    trains(
        &run,
        &format!("{flags} --metric_for_best_model eval_loss_odd"),
    );
    let found = channels(&run).into_iter();
    let odd: Vec<f64> = found
        .filter_map(|line| line.get("eval_loss_odd").copied())
        .collect();
    assert_eq!(odd.len(), 3);
    let least = odd.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(number(&run, "best_metric"), least);

    let other = home.path().join("other");
    let refused = |more: &str, says: &[&str]| refuses(&other, &format!("{flags} {more}"), says);
    refused(
        "--metric_for_best_model loss_oddd",
        &[
            "\"loss_oddd\", which nobody reports; did you mean loss_odd?",
            "loss_even",
        ],
    );
    refused(
        "--metric_for_best_model loss_odd --enable_channel_loss false",
        &[
            "which nobody reports",
            "--enable_channel_loss true reports loss_NAME",
        ],
    );
    assert!(!other.exists());
}

#[test]
fn a_channel_that_cannot_be_a_name_makes_a_bad_row() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    let rows = file(home.path(), "rows.jsonl", |number| {
        Some(if number == 2 { "two\nlines" } else { "good" }.into())
    });
    let flags = format!("{} {ONE_STEP} --dataset {}", model(), rows.display());
    let said = trains(&run, &flags);
    let bad = "rows.jsonl:3: column `channel` is \"two\\nlines\"";
    assert!(
        said.contains(bad) && said.contains("dropped 1 (bad row)"),
        "{said}"
    );
    refuses(
        &home.path().join("strict"),
        &format!("{flags} --strict true"),
        &["rows.jsonl:3", "bad row (strict)"],
    );
    let without = trains(
        &home.path().join("without"),
        &format!("{flags} --enable_channel_loss false --strict true"),
    );
    assert!(!without.contains("bad row"), "{without}");

    let nobody = file(home.path(), "nobody.jsonl", |_| None);
    let said = trains(
        &home.path().join("nobody"),
        &format!("{flags} --dataset {}", nobody.display()),
    );
    assert!(
        said.contains("no row of the training data has a column `channel`"),
        "{said}"
    );
}
