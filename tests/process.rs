//! Programs that are plugins, and the real binary: the Python example in a run, and programs that crash, hang, or write what
//! is no answer.

mod common;

use common::{text, works};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: there is no python3");
    }
    found
}

fn tickets(dir: &Path) -> PathBuf {
    let rows = [
        r#"{"question": "Where is it?", "replies": [{"author": "bot", "text": "Hello!"}, {"author": "anna", "text": "In ```/etc``` of course."}]}"#,
        r#"{"question": "And now?", "replies": [{"author": "anna", "text": "Start again."}, {"author": "customer", "text": "Done."}, {"author": "anna", "text": "Well then."}]}"#,
    ];
    let file = dir.join("tickets.jsonl");
    fs::write(&file, format!("{0}\n{0}\n", rows.join("\n"))).unwrap();
    file
}

/// A plugin that is a script of the shell: it announces a loss scale `s`, is made, and does `then` when it is called.
fn script(dir: &Path, name: &str, then: &str) -> PathBuf {
    let file = dir.join(name);
    let says = format!(
        r#"#!/bin/sh
read q
echo '{{"id": 1, "ok": {{"name": "bad", "components": [{{"kind": "loss scale", "name": "s"}}]}}}}'
read q
echo '{{"id": 2, "ok": null}}'
read q
{then}
"#
    );
    fs::write(&file, says).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    file
}

fn data(plugin: &str, more: &str) -> String {
    let goldens = format!("{ROOT}/tests/goldens/tiny");
    format!("data {goldens}/chat_train.jsonl --model {goldens}/model_bf16 --plugin {plugin} {more}")
}

#[test]
fn the_python_example_in_a_run() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let (rows, out) = (tickets(home.path()), home.path().join("out"));
    let plugin = format!("cmd:{ROOT}/examples/process/mine.py");
    let goldens = format!("{ROOT}/tests/goldens/tiny");
    let said = works(&format!(
        "sft --device cpu --add_version false --model {goldens}/model_bf16 --dataset {} --val_dataset {} \
         --dataset_format ticket --loss_scale default+code --lr_scheduler halving --callbacks patience \
         --metrics long_enough --report_to lines --predict_with_generate true --max_new_tokens 3 \
         --per_device_train_batch_size 2 --gradient_accumulation_steps 1 --max_steps 8 --logging_steps 1 \
         --eval_steps 2 --save_steps 2 --lora_rank 4 --learning_rate 1e-3 --output_dir {} --plugin {plugin}",
        rows.display(),
        rows.display(),
        out.display(),
    ));
    assert!(!said.contains("warning"), "{said}");
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    let log = read("logging.jsonl");
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let rates: Vec<f64> = lines
        .iter()
        .filter_map(|line| line["learning_rate"].as_f64())
        .collect();
    assert!(rates.len() >= 3 && rates.contains(&5e-4), "{rates:?}");
    assert!(
        lines
            .iter()
            .any(|line| line["eval_long_enough"].is_number()),
        "{log}"
    );
    assert!(lines.iter().any(|line| line["seen"] == 3), "{log}");
    let steps: Vec<u64> = read("lines.jsonl")
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["step"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(steps.iter().max(), Some(&3), "{steps:?}");
    let args: Value = serde_json::from_str(&read("args.json")).unwrap();
    let record = &args["plugins"][0];
    assert_eq!(record["path"], plugin);
    assert_eq!(record["sha256"].as_str().unwrap().len(), 64);
}

#[test]
fn a_bad_row_is_the_row_s_and_a_check_passes() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let rows = tickets(home.path());
    let more = r#"{"question": "x", "replies": [{"author": "anna"}]}"#;
    fs::write(&rows, fs::read_to_string(&rows).unwrap() + more + "\n").unwrap();
    let plugin = format!("cmd:{ROOT}/examples/process/mine.py");
    let said = works(&format!(
        "data {} --model {ROOT}/tests/goldens/tiny/model_bf16 --dataset_format ticket --plugin {plugin}",
        rows.display()
    ));
    assert!(said.contains("KeyError: 'text' (mine.py:"), "{said}");
    let checked = works(&format!("plugin check {plugin}"));
    assert!(
        checked.contains("patience") && checked.contains("halving"),
        "{checked}"
    );
}

#[test]
fn programs_that_misbehave_are_named() {
    let home = tempfile::tempdir().unwrap();
    let cases = [
        (
            "exits",
            "echo oh no >&2; exit 3",
            "has ended (exit status: 3)",
        ),
        ("crashes", "kill -SEGV $$", "has ended (signal: 11"),
        ("prints", "echo hello", "no JSON"),
        (
            "answers_another",
            r#"echo '{"id": 7, "ok": []}'"#,
            "answered something else than question 3",
        ),
        ("no_answer", r#"echo '{"id": 3}'"#, "an answer has `ok`"),
        (
            "shape",
            r#"echo '{"id": 3, "ok": {"text": 1}}'; sleep 60"#,
            "another shape",
        ),
        ("closes", "exec >&-; sleep 60", "closed its standard output"),
    ];
    for (name, then, says) in cases {
        let file = script(home.path(), name, then);
        let said = common::fails(
            &data(&format!("cmd:{}", file.display()), "--loss_scale s"),
            1,
            &[says],
        );
        assert!(
            said.contains("loss scale s of plugin bad") && said.contains(name),
            "{name}: {said}"
        );
    }
    let line = data(
        &format!("cmd:{}", home.path().join("exits").display()),
        "--loss_scale s",
    );
    let said = common::fails(&line, 1, &[]);
    assert!(said.contains("standard error:\noh no"), "{said}");
}

#[test]
fn a_program_that_hangs_has_a_time_limit() {
    let home = tempfile::tempdir().unwrap();
    let file = script(home.path(), "hangs", "sleep 1000");
    let config = home.path().join("run.toml");
    let table = format!(
        "plugins = [{{ path = \"cmd:{}\", timeout = 1 }}]\nloss_scale = \"s\"\n",
        file.display()
    );
    fs::write(&config, table).unwrap();
    let goldens = format!("{ROOT}/tests/goldens/tiny");
    let line = format!(
        "data --config {} {goldens}/chat_train.jsonl --model {goldens}/model_bf16",
        config.display()
    );
    common::fails(
        &line,
        1,
        &["no answer within 1 s", "loss scale s of plugin bad"],
    );
}

#[test]
fn what_cannot_be_started_is_said() {
    let said = common::fails(&data("cmd:./there/is/none", ""), 1, &["cannot be started"]);
    assert!(said.contains("cmd:./there/is/none"), "{said}");
    common::fails(&data("cmd:", ""), 1, &["names no command"]);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("kind");
    let says = r#"read q; echo '{"id": 1, "ok": {"name": "x", "components": [{"kind": "loss", "name": "l"}]}}'"#;
    fs::write(&file, says).unwrap();
    let plugin = format!("'cmd:sh {}'", file.display());
    let output = Command::new(env!("CARGO_BIN_EXE_apus"))
        .args(["components", "--plugin", plugin.trim_matches('\'')])
        .output()
        .unwrap();
    let said = text(&output);
    assert!(
        said.contains("a process can be a dataset format, loss scale"),
        "{said}"
    );
}
