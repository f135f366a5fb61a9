//! `apus data`, and how data becomes the examples of a run: packing, splitting, the cache.

mod common;

use common::{apus, fails, folder, text, words, works};
use serde_json::Value;
use std::fs;
use std::path::Path;

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// `apus data` on the tiny model's conversations.
fn data(rest: &str) -> String {
    format!(
        "data {GOLDENS}/chat_train.jsonl --model {GOLDENS}/model_bf16 --current_date 2025-08-05 {rest}"
    )
}

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The log lines of the one run in a folder.
fn log(dir: &Path) -> Vec<Value> {
    let run = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    rows(&run.join("logging.jsonl"))
}

#[test]
fn data_is_shown() {
    let dir = folder("shown");
    let page = dir.join("look.html");
    let said = works(&data(&format!(
        "--samples 2 --learning_rate 1e-4 --html {}",
        page.display()
    )));
    for part in [
        "chat_train.jsonl",
        "messages",
        "weighted",
        "--- ",
        "<|channel|>final<|message|>",
        "[[",
        "<|return|>]]",
        "data: 8 rows read and prepared in ",
        " rows/s",
    ] {
        assert!(said.contains(part), "{part:?} not in: {said}");
    }
    let page = fs::read_to_string(page).unwrap();
    for part in [
        "prefers-color-scheme",
        "&lt;|return|&gt;",
        "weight 1\"",
        "class=\"bars\"",
        "</html>",
    ] {
        let found =
            page.contains(part) || part == "prefers-color-scheme" && page.contains("light dark");
        assert!(found, "{part:?} not in: {page}");
    }
    let odd = works(&data("--samples 0 --reasoning_effort silly"));
    assert!(odd.contains("gpt-oss knows low, medium, high"), "{odd}");
    let none = works(&data("--samples 0"));
    assert!(!none.contains("--- "), "{none}");
}

#[test]
fn what_cannot_be_looked_at_is_named() {
    fails("data", 2, &["no data to look at"]);
    fails(
        &format!("data {GOLDENS}/chat_train.jsonl"),
        2,
        &["--model or --tokenizer is missing"],
    );
    fails(
        &data("--packing true"),
        2,
        &["packing is true and max_length is not given"],
    );
    fails(&data("--sample 1"), 2, &["--sample"]);
    fails(
        &data("--truncation_strategy middle"),
        2,
        &["truncation_strategy is \"middle\", expected delete, left, right, split or raise"],
    );
    fails(
        &data("--split_dataset_ratio 1"),
        2,
        &["split_dataset_ratio is 1, expected a number of 0 or more and below 1"],
    );
    let dir = folder("strict");
    let bad = dir.join("bad.jsonl");
    let good = r#"{"query": "a", "response": "b"}"#;
    fs::write(
        &bad,
        format!("{good}\n{{\"query\": \"a\", \"response\": 3}}\n"),
    )
    .unwrap();
    let line = format!(
        "data {} --tokenizer {GOLDENS}/model_bf16 --strict true",
        bad.display()
    );
    fails(&line, 1, &["bad.jsonl:2", "bad row (strict)"]);
    let untrained = dir.join("untrained.jsonl");
    let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "loss": false}]}"#;
    fs::write(&untrained, row).unwrap();
    let line = format!(
        "data {} --tokenizer {GOLDENS}/model_bf16",
        untrained.display()
    );
    fails(
        &line,
        1,
        &[
            "untrained.jsonl:1",
            "`loss: false`",
            "loss scale",
            "truncation",
        ],
    );
}

#[test]
fn what_was_written_trains_as_it_is() {
    let dir = folder("round_trip");
    let (first, second) = (dir.join("first.jsonl"), dir.join("second.jsonl"));
    let plain = "--dataset_shuffle false --samples 0 --loss_scale hermes+react";
    works(&data(&format!("{plain} --out {}", first.display())));
    let said = works(&format!(
        "data {} --tokenizer {GOLDENS}/model_bf16 --samples 0 --dataset_shuffle false --out {}",
        first.display(),
        second.display()
    ));
    assert!(said.contains("tokens"), "{said}");
    assert_eq!(
        fs::read_to_string(&first).unwrap(),
        fs::read_to_string(&second).unwrap()
    );
    let rows = rows(&first);
    assert_eq!(rows.len(), 8);
    for row in &rows {
        let segments = row["segments"].as_array().unwrap();
        let joined: String = segments
            .iter()
            .map(|segment| segment["text"].as_str().unwrap())
            .collect();
        assert_eq!(row["text"], joined.as_str());
        let count = |name: &str| row[name].as_array().unwrap().len();
        assert_eq!(count("input_ids"), count("labels"));
        assert_eq!(count("input_ids"), count("loss_scale"));
    }

    let sft = |dataset: &Path, out: &str| {
        let out = dir.join(out);
        works(&format!(
            "sft --device cpu --model {GOLDENS}/model_bf16 --dataset {} --dataset_shuffle false --max_steps 2 \
             --loss_scale hermes+react --current_date 2025-08-05 --logging_steps 1 --output_dir {}",
            dataset.display(),
            out.display()
        ));
        log(&out)
    };
    let chat = Path::new(GOLDENS).join("chat_train.jsonl");
    let (from_chat, from_rows) = (sft(&chat, "chat"), sft(&first, "rows"));
    for step in 0..2 {
        for key in ["loss", "grad_norm"] {
            assert!(from_chat[step][key].is_f64());
            assert_eq!(from_chat[step][key], from_rows[step][key], "{key}");
        }
    }
}

#[test]
fn packed_rows_train_like_the_samples_in_them() {
    let dir = folder("packing");
    let packed = works(&data("--samples 0 --packing true --max_length 512"));
    let line = packed
        .lines()
        .find(|line| line.contains("packing: 8 samples in "));
    let line = line.unwrap_or_else(|| panic!("no packing in: {packed}"));
    assert!(
        line.contains("rows of 512 tokens, ") && line.ends_with("% full"),
        "{line}"
    );

    let sft = |flags: &str, out: &str| {
        let out = dir.join(out);
        let said = works(&format!(
            "sft --device cpu --model {GOLDENS}/model_bf16 --dataset {GOLDENS}/chat_train.jsonl --max_steps 1 \
             --max_length 512 --current_date 2025-08-05 {flags} --output_dir {}",
            out.display()
        ));
        (log(&out).remove(0)["loss"].as_f64().unwrap(), said)
    };
    let each = "--per_device_train_batch_size 1 --gradient_accumulation_steps 8";
    let (alone, _) = sft(each, "alone");
    let (packed, said) = sft(&format!("{each} --packing true"), "packed");
    assert!(said.contains("packing: 8 samples"), "{said}");
    assert!((alone - packed).abs() < 1e-5, "{alone} {packed}");
    let (grouped, _) = sft(&format!("{each} --group_by_length true"), "grouped");
    assert!((alone - grouped).abs() < 1e-5, "{alone} {grouped}");
}

#[test]
fn a_long_sample_becomes_several() {
    let dir = folder("split");
    let out = dir.join("parts.jsonl");
    let file = dir.join("long.jsonl");
    let row = serde_json::json!({"query": "go", "response": "one two three ".repeat(60)});
    fs::write(&file, format!("{row}\n")).unwrap();
    let said = works(&format!(
        "data {} --tokenizer {GOLDENS}/model_bf16 --samples 0 --truncation_strategy split --max_length 100 --out {}",
        file.display(),
        out.display()
    ));
    let longest: usize = rows(&out)
        .iter()
        .map(|row| row["input_ids"].as_array().unwrap().len())
        .sum();
    assert!(
        said.replace(' ', "").contains(&format!("┆{longest}┆")),
        "{said}"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&out), mode(&file));
    }
    assert!(
        said.contains("1 sample longer than max_length became 3 (truncation_strategy split)"),
        "{said}"
    );
    let rows = rows(&out);
    assert!(rows.len() > 1, "{said}");
    for row in &rows {
        let labels = row["labels"].as_array().unwrap();
        assert!(labels.len() <= 100 && labels[0] == -100);
    }
}

#[test]
fn prepared_data_is_found_again() {
    let dir = folder("cache");
    let cache = dir.join("caches");
    let run = |flags: &str| {
        let line = data(&format!("--samples 1 --load_from_cache_file true {flags}"));
        let cache = cache.display().to_string();
        let output = apus(&words(&line), &[("APUS_CACHE", cache.as_str())]);
        assert!(output.status.success(), "{}", text(&output));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
    };
    let entries = || fs::read_dir(cache.join("data")).unwrap().count();
    let (first, said) = run("");
    assert!(said.contains("kept in"), "{said}");
    let (second, said) = run("--packing true --max_length 4096");
    assert!(said.contains("kept in"), "{said}");
    assert!(second.contains("packing:") && entries() == 2);
    let (again, said) = run("");
    assert!(
        said.contains("8 rows from") && !said.contains("kept in"),
        "{said}"
    );
    assert_eq!((again, entries()), (first, 2));
    let thought = dir.join("thought.jsonl");
    let row = r#"{"query": "a", "response": "<think>b</think>c", "mood": "good"}"#;
    fs::write(&thought, format!("{row}\n{row}\n")).unwrap();
    let notes = |flags: &str| {
        let line = format!(
            "data {} --tokenizer {GOLDENS}/model_bf16 --current_date 2025-08-05 --samples 0 {flags}",
            thought.display()
        );
        let cache = cache.display().to_string();
        let said = text(&apus(&words(&line), &[("APUS_CACHE", cache.as_str())]));
        assert!(said.contains("data: 2 rows: <think>..</think>"), "{said}");
        let unused = "thought.jsonl: not used: mood (2 rows, first in line 1)";
        assert!(said.contains(unused), "{said}");
        said
    };
    notes("");
    notes("--load_from_cache_file true");
    let said = notes("--load_from_cache_file true");
    assert!(said.contains("data: 2 rows from"), "{said}");
    for other in [
        "--loss_scale last_round",
        "--system hi",
        "--reasoning_effort high",
    ] {
        let before = entries();
        run(other);
        assert_eq!(entries(), before + 1, "{other}");
    }
}
