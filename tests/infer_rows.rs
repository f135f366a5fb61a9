//! `apus infer` over a dataset, in batches: the file of answers is the same however it came about.
#![cfg(unix)]

mod common;

use common::{apus, fails, folder, text, words, works};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny/model_bf16");

/// Tokens that were said already get more probable, so that answers do not end by themselves.
const LONG: &str = "--temperature 0 --repetition_penalty 0.5 --max_new_tokens 40";

/// Rows of which two cannot be asked.
fn rows(dir: &Path, count: usize) -> PathBuf {
    let path = dir.join("rows.jsonl");
    let row = |number| match number {
        2 => r#"{"query": 1, "id": 2}"#.to_owned(),
        5 => r#"{"id": 5}"#.to_owned(),
        number => format!(
            r#"{{"query": "{}?", "response": "{number}", "id": {number}}}"#,
            "What ".repeat(number % 7 + 1)
        ),
    };
    fs::write(
        &path,
        (0..count)
            .map(|number| row(number) + "\n")
            .collect::<String>(),
    )
    .unwrap();
    path
}

fn line(rows: &Path, answers: &Path, flags: &str) -> String {
    format!(
        "infer --model {MODEL} --val_dataset {} --result_path {} --current_date 2025-08-05 --deterministic true {flags}",
        rows.display(),
        answers.display()
    )
}

/// Answers the rows, two of which have no answer; gives the file.
#[track_caller]
fn answered(line: &str, answers: &Path) -> String {
    fails(line, 1, &["2 of", "rows have no answer"]);
    fs::read_to_string(answers).unwrap()
}

#[test]
fn batches_of_any_size_write_the_same_file() {
    let dir = folder("infer-batches");
    let rows = rows(&dir, 24);
    for (name, flags) in [
        ("greedy", "--temperature 0 --max_new_tokens 9"),
        ("sampled", "--temperature 1 --max_new_tokens 9"),
        (
            "penalised",
            "--temperature 1 --presence_penalty 1 --min_p 0.01 --stop_words e a --max_new_tokens 9",
        ),
        (
            "told",
            "--temperature 1 --logprobs true --top_logprobs 2 --max_new_tokens 3",
        ),
    ] {
        let answer = |size: &str| {
            let answers = dir.join(format!("{name}{}.jsonl", size.replace(' ', "")));
            answered(&line(&rows, &answers, &format!("{flags} {size}")), &answers)
        };
        let one = answer("--max_batch_size 1");
        assert_eq!(one.lines().count(), 24);
        let ids = one
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone());
        assert!(ids.eq((0..24).map(Value::from)), "{name}");
        for size in [
            "--max_batch_size 3",
            "--max_batch_size 64",
            "--write_batch_size -1",
            "--write_batch_size 5",
        ] {
            assert_eq!(answer(size), one, "{name} {size}");
        }
    }
}

/// Starts a run and waits until its file has some lines, but not all.
fn begun(line: &str, answers: &Path) -> std::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apus"));
    command
        .args(words(line))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let started = Instant::now();
    while fs::read_to_string(answers).map_or(0, |text| text.lines().count()) < 9 {
        assert!(
            started.elapsed() < Duration::from_secs(120),
            "the first answers"
        );
        sleep(Duration::from_millis(3));
    }
    child
}

fn signal(child: &std::process::Child, name: &str) {
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args([name, &id])
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn a_run_that_was_stopped_goes_on_where_it_was() {
    let dir = folder("infer-stopped");
    let rows = rows(&dir, 60);
    let whole = dir.join("whole.jsonl");
    let whole = answered(&line(&rows, &whole, LONG), &whole);
    for (name, code, says) in [
        ("-INT", Some(130), "answers are in"),
        (
            "-TERM",
            Some(130),
            "the same command with --result_path goes on there",
        ),
        ("-KILL", None, ""),
    ] {
        let answers = dir.join(format!("stopped{name}.jsonl"));
        let line = line(&rows, &answers, &format!("{LONG} --max_batch_size 4"));
        let child = begun(&line, &answers);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), code, "{name}: {}", text(&output));
        assert!(text(&output).contains(says), "{name}: {}", text(&output));
        let part = fs::read_to_string(&answers).unwrap();
        assert!(
            whole.starts_with(&part) && part.len() < whole.len(),
            "{name}: {part}"
        );
        // A last line that was cut off is written anew.
        fs::write(&answers, &whole[..part.len() + 20]).unwrap();
        assert_eq!(answered(&line, &answers), whole, "{name}");
        let said = fails(&line, 1, &["all 60 answers are there already"]);
        assert!(!said.contains("loaded"), "{said}");
        assert_eq!(fs::read_to_string(&answers).unwrap(), whole, "{name}");
    }
}

#[test]
fn a_few_rows_can_become_all_and_another_day_changes_nothing() {
    let dir = folder("infer-more");
    let rows = rows(&dir, 12);
    let (few, all) = (dir.join("few.jsonl"), dir.join("all.jsonl"));
    let sampled = "--temperature 1 --max_new_tokens 5";
    let all = answered(&line(&rows, &all, sampled), &all);
    works(&line(
        &rows,
        &few,
        &format!("{sampled} --val_dataset_sample 2"),
    ));
    // The day is that of the first part.
    let undated =
        line(&rows, &few, sampled).replace("--current_date 2025-08-05 --deterministic true", "");
    assert_eq!(answered(&undated, &few), all);
}

#[test]
fn a_file_that_holds_something_else_is_left_alone() {
    let dir = folder("infer-other");
    let rows = rows(&dir, 9);
    let answers = dir.join("answers.jsonl");
    let flags = "--temperature 1 --max_new_tokens 3";
    let whole = answered(&line(&rows, &answers, flags), &answers);
    let refused = |flags: &str, says: &[&str]| {
        let before = fs::read(&answers).unwrap();
        fails(&line(&rows, &answers, flags), 1, says);
        assert_eq!(fs::read(&answers).unwrap(), before);
    };
    refused(
        "--temperature 0.5 --max_new_tokens 3 --seed 7 --system Mew.",
        &[
            "temperature: 1.0 there, 0.5 now",
            "seed: 42 there, 7 now",
            "system: null there, \"Mew.\" now",
            "choose another --result_path",
        ],
    );
    refused(
        &format!("{flags} --val_dataset_sample 8"),
        &["holds more than the 8 answers"],
    );
    fs::write(&answers, format!("{{\"id\": 1}}\n{whole}")).unwrap();
    refused(
        flags,
        &[
            "answers.jsonl:1: its `id` is not that of",
            "rows.jsonl:1",
            "choose another",
        ],
    );
    fs::write(&answers, format!("torn\n{whole}")).unwrap();
    refused(flags, &["answers.jsonl:1"]);
    fs::write(&answers, &whole).unwrap();
    let text = fs::read_to_string(&rows).unwrap();
    fs::write(&rows, text.replacen("What", "Who", 1)).unwrap();
    refused(
        flags,
        &[
            "answers.jsonl:1: its `messages` is not that of",
            "rows.jsonl:1",
        ],
    );
    fs::write(&rows, text).unwrap();
    fs::remove_file(dir.join("answers.jsonl.args.json")).unwrap();
    refused(
        flags,
        &["answers.jsonl.args.json does not say what they were made with"],
    );
    // Neither is any other file, however it ends.
    fs::write(&answers, "notes").unwrap();
    refused(flags, &["does not say what they were made with"]);
}

#[test]
fn what_a_line_says_of_its_answer() {
    let dir = folder("infer-lines");
    let rows = dir.join("rows.jsonl");
    fs::write(&rows, "{\"query\": \"What?\"}\n{\"query\": \"Who?\"}\n").unwrap();
    let answers = |name: &str, flags: &str| -> Vec<Value> {
        let path = dir.join(name);
        works(&line(
            &rows,
            &path,
            &format!("--temperature 1 --max_new_tokens 12 {flags}"),
        ));
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let one = answers("one.jsonl", "");
    assert!(one[0].get("logprobs").is_none());
    let several = answers("several.jsonl", "--n 3");
    assert_eq!(several.len(), 6);
    assert_eq!([&several[0], &several[3]], [&one[0], &one[1]]);
    assert!(several[0] != several[1] && several[1] != several[2]);

    let stopped = answers("stopped.jsonl", "--stop_words e");
    for (line, whole) in stopped.iter().zip(&one) {
        let (response, whole) = (
            line["response"].as_str().unwrap(),
            whole["response"].as_str().unwrap(),
        );
        let end = whole.find('e').map_or(whole.len(), |at| at + 1);
        assert_eq!(response, &whole[..end]);
    }
    assert!(
        stopped
            .iter()
            .any(|line| line["response"].as_str().unwrap().ends_with('e'))
    );

    let told = answers("told.jsonl", "--logprobs true --top_logprobs 2");
    let keys: Vec<&String> = told[0].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["response", "labels", "logprobs", "messages"]);
    let tokens = told[0]["logprobs"]["content"].as_array().unwrap();
    assert!(!tokens.is_empty());
    for token in tokens {
        let logprob = token["logprob"].as_f64().unwrap();
        let top = token["top_logprobs"].as_array().unwrap();
        assert!(
            top.len() == 2 && top[0]["logprob"].as_f64().unwrap() >= logprob.min(0.0),
            "{token}"
        );
        assert!(logprob < 0.0 && token["bytes"].is_array() && token["token"].is_string());
    }
    let plain = answers("plain.jsonl", "--logprobs true");
    assert!(
        plain[0]["logprobs"]["content"][0]
            .get("top_logprobs")
            .is_none()
    );
    assert_eq!(plain[0]["response"], one[0]["response"]);
    fails(
        &format!("infer --model {MODEL} --top_logprobs 2"),
        1,
        &["logprobs is false"],
    );
}

#[test]
fn rows_are_answered_by_one_adapter_and_by_one_process() {
    let dir = folder("infer-one");
    let rows = rows(&dir, 20);
    let answers = dir.join("answers.jsonl");
    fails(
        &line(&rows, &answers, "--adapters a=/nowhere b=/nowhere"),
        1,
        &["2 adapters are given, and rows are answered by one"],
    );
    let line = line(&rows, &answers, &format!("{LONG} --max_batch_size 1"));
    let mut child = begun(&line, &answers);
    let output = apus(&words(&line), &[]);
    assert!(
        text(&output).contains("another process is writing it"),
        "{}",
        text(&output)
    );
    child.kill().unwrap();
    child.wait().unwrap();
}
