//! Programs that are plugins, and the real binary: the Python example in a run, and programs that crash, hang, or write what
//! is no answer.

mod common;

use common::process::{executable, page, program, python};
use common::works;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn tickets(dir: &Path) -> PathBuf {
    let rows = [
        r#"{"question": "Where is it?", "replies": [{"author": "bot", "text": "Hello!"}, {"author": "anna", "text": "In ```/etc``` of course."}]}"#,
        r#"{"question": "And now?", "replies": [{"author": "anna", "text": "Start again."}, {"author": "customer", "text": "Done."}, {"author": "anna", "text": "Well then."}]}"#,
    ];
    let file = dir.join("tickets.jsonl");
    fs::write(&file, format!("{0}\n{0}\n", rows.join("\n"))).unwrap();
    file
}

/// A plugin that is a script of the shell.
fn script(dir: &Path, name: &str, does: &str) -> PathBuf {
    executable(dir, name, &format!("#!/bin/sh\n{does}\n"))
}

/// A script that announces a loss scale `s`, makes it, reads a call and does `then`.
fn scale(then: &str) -> String {
    format!(
        r#"read q
echo '{{"id": 1, "ok": {{"name": "bad", "components": [{{"kind": "loss scale", "name": "s"}}]}}}}'
read q
echo '{{"id": 2, "ok": null}}'
read q
{then}"#
    )
}

/// The same, which takes calls in batches.
fn batches(then: &str) -> String {
    scale(then).replacen(
        "\"name\": \"bad\"",
        "\"name\": \"bad\", \"batches\": true",
        1,
    )
}

/// `apus data` with the loss scale `s` of this program. One that hangs has a second or two for it; the others have longer than they need
/// on a machine with other work to do.
fn hurried(home: &Path, name: &str, does: &str) -> String {
    let file = script(home, name, does);
    let config = home.join(format!("{name}.toml"));
    let (answer, start) = match name {
        "hangs" => (1, 30),
        "hangs_at_once" | "hangs_when_made" => (30, 2),
        _ => (30, 30),
    };
    let table = format!(
        "plugins = [{{ path = \"cmd:{}\", timeout = {answer}, start_timeout = {start} }}]\nloss_scale = \"s\"\n",
        file.display()
    );
    fs::write(&config, table).unwrap();
    let goldens = format!("{ROOT}/tests/goldens/tiny");
    format!(
        "data --config {} {goldens}/chat_train.jsonl --model {goldens}/model_bf16",
        config.display()
    )
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
fn a_file_of_python_is_sent_to_the_page() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("mine.py");
    fs::write(&file, "from swift.loss_scale import loss_scale_map\n").unwrap();
    for flag in ["--external_plugins", "--custom_register_path", "--plugin"] {
        let line =
            data("cmd:x", "").replace("--plugin cmd:x", &format!("{flag} {}", file.display()));
        common::fails(
            &line,
            1,
            &[
                "this is a file of Python",
                "--plugin cmd:./mine.py",
                "docs/process-plugins.md",
            ],
        );
    }
    assert!(page().contains("\n## From `--external_plugins`\n"));
}

#[test]
fn several_processes_share_the_rows() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let says = r#"
import os
import time
from apus_plugin import component, run

@component("loss scale", "s")
def s(text, role, field, query, is_last):
    """Takes its time."""
    time.sleep(0.002)
    open(f"{__file__}.{os.getpid()}", "a").write("called\n")
    return [[text, 0.5]]

run("shared")
"#;
    let plugin = program(home.path(), "shared.py", says);
    let goldens = format!("{ROOT}/tests/goldens/tiny");
    let rows = fs::read_to_string(format!("{goldens}/chat_train.jsonl")).unwrap();
    let many = home.path().join("many.jsonl");
    fs::write(&many, rows.repeat(40)).unwrap();
    let prepared = |processes: usize| {
        let config = home.path().join("run.toml");
        let table = format!(
            "plugins = [{{ path = \"{plugin}\", processes = {processes} }}]\nloss_scale = \"s\"\n"
        );
        fs::write(&config, table).unwrap();
        let out = home.path().join(format!("{processes}.jsonl"));
        works(&format!(
            "data --config {} {} --model {goldens}/model_bf16 --dataset_num_proc 2 --out {}",
            config.display(),
            many.display(),
            out.display()
        ));
        let names = fs::read_dir(home.path())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let called: Vec<PathBuf> = names
            .filter(|path| path.to_string_lossy().contains("shared.py."))
            .collect();
        called
            .iter()
            .for_each(|path| fs::remove_file(path).unwrap());
        (called.len(), fs::read(out).unwrap())
    };
    let (one, two) = (prepared(1), prepared(2));
    assert_eq!((one.0, two.0), (1, 2));
    assert!(one.1 == two.1, "the rows are the same, in the same order");
}

#[test]
fn what_a_python_program_prints_goes_to_the_log() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let says = r#"
import os
from apus_plugin import component, run

@component("loss scale", "s")
def s(text, role, field, query, is_last):
    """Prints."""
    print("printed by Python")
    os.system("echo printed by another program")
    return [[text, 1.0]]

run("prints")
"#;
    let program = program(home.path(), "prints.py", says);
    let line = data("cmd:PROGRAM", "--loss_scale s");
    let mut words = common::words(&line);
    let command = program.replacen("cmd:", "cmd:python3 ", 1);
    let at = words
        .iter()
        .position(|word| *word == "cmd:PROGRAM")
        .unwrap();
    words[at] = &command;
    let said = common::text(&common::apus(&words, &[]));
    for printed in ["Python", "another program"] {
        assert!(
            said.contains(&format!("{command}: printed by {printed}")),
            "{said}"
        );
    }
}

#[test]
fn programs_that_misbehave_are_named() {
    let made = "loss scale s of plugin bad";
    let long = "head -c 70000000 /dev/zero | tr '\\0' x; sleep 60";
    // The name of the program, what it does, what the error says: what the program was asked, and what came of it.
    let cases = [
        ("hangs_at_once", "sleep 60".to_owned(), ["announce", "no answer within 2 s; plugins = [{ path = \"cmd:...\", start_timeout"]),
        ("ends_at_once", "exit 3".to_owned(), ["announce", "has ended (exit status: 3)"]),
        ("speaks_at_once", "echo Hello!; sleep 60".to_owned(), ["announce", "no JSON"]),
        ("is_a_loss", r#"read q; echo '{"id": 1, "ok": {"name": "x", "components": [{"kind": "loss", "name": "l"}]}}'"#.to_owned(), ["announce", "a process can be a dataset format, loss scale"]),
        ("is_odd", r#"read q; echo '{"id": 1, "ok": {"name": "x", "colour": 3, "components": []}}'; sleep 60"#.to_owned(), ["announce", "another shape: unknown field `colour`"]),
        // The line comes before the next question or after it.
        ("speaks_twice", scale("").replacen("read q\necho '{\"id\": 2", "echo twice; sleep 1; read q\necho '{\"id\": 2", 1), ["make", "\"twice\"; its standard output is for answers"]),
        ("hangs_when_made", scale("").replacen("read q\necho '{\"id\": 2", "read q; sleep 60\necho '{\"id\": 2", 1), ["s of plugin bad", "make: it gave no answer within 2 s"]),
        ("is_not_made", scale("").replacen("\"id\": 2, \"ok\": null", "\"id\": 2, \"error\": \"no such thing\"", 1), ["s of plugin bad", "make: no such thing"]),
        ("exits", scale("echo oh no >&2; exit 3"), [made, "has ended (exit status: 3). Its last lines on standard error:\noh no"]),
        ("crashes", scale("kill -SEGV $$"), [made, "has ended (signal: 11"]),
        ("hangs", scale("sleep 60"), [made, "no answer within 1 s; plugins = [{ path = \"cmd:...\", timeout"]),
        ("closes", scale("exec >&-; sleep 60"), [made, "closed its standard output"]),
        ("prints", scale("echo hello; sleep 60"), [made, "no JSON"]),
        ("is_not_utf_8", scale(r"printf '\377\376\n'; sleep 60"), [made, "no JSON"]),
        ("stops_in_a_line", scale(r#"printf '{"id": 3, "ok"'; exit"#), [made, "has ended (exit status: 0), in the middle of a line: {\"id\": 3"]),
        ("writes_without_end", scale(long), [made, "a line of more than 67108864 bytes"]),
        ("answers_another", scale(r#"echo '{"id": 7, "ok": []}'; sleep 60"#), [made, "answered something else than question 3"]),
        ("answers_nothing", scale(r#"echo '{"id": 3}'; sleep 60"#), [made, "an answer has `ok`"]),
        ("answers_both", scale(r#"echo '{"id": 3, "ok": [], "error": "no"}'; sleep 60"#), [made, "an answer has `ok`"]),
        ("shape", scale(r#"echo '{"id": 3, "ok": {"text": 1}}'; sleep 60"#), [made, "another shape: invalid type: map"]),
        ("too_few", batches(r#"echo '{"id": 3, "ok": []}'; sleep 60"#), [made, "a batch of 1 calls has 1 answers, it gave 0"]),
        ("too_many", batches(r#"echo '{"id": 3, "ok": [{"ok": []}, {"ok": []}]}'; sleep 60"#), [made, "a batch of 1 calls has 1 answers, it gave 2"]),
        ("no_list", batches(r#"echo '{"id": 3, "ok": {"ok": []}}'; sleep 60"#), [made, "the answer to a batch is a list"]),
        ("bare", batches(r#"echo '{"id": 3, "ok": [[]]}'; sleep 60"#), [made, "an answer has `ok`"]),
    ];
    let home = tempfile::tempdir().unwrap();
    let started = Instant::now();
    for (name, does, says) in cases {
        let said = common::fails(&hurried(home.path(), name, &does), 1, &says);
        assert!(
            said.contains(&format!("{}/{name}", home.path().display())),
            "{name}: {said}"
        );
    }
    assert!(
        started.elapsed() < Duration::from_secs(50),
        "what sleeps is not waited for"
    );
}

#[test]
fn an_error_of_one_call_in_a_batch_is_its_row_s() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let good = r#"{"question": "Where?", "replies": [{"author": "anna", "text": "Here."}]}"#;
    let bad = r#"{"question": "x", "replies": [{"author": "anna"}]}"#;
    let rows: Vec<&str> = (0..200)
        .map(|i| if i % 50 == 17 { bad } else { good })
        .collect();
    let file = home.path().join("rows.jsonl");
    fs::write(&file, rows.join("\n") + "\n").unwrap();
    let said = works(&format!(
        "data {} --model {ROOT}/tests/goldens/tiny/model_bf16 --dataset_format ticket --loss_scale default+code \
         --plugin cmd:{ROOT}/examples/process/mine.py",
        file.display()
    ));
    for line in [18, 68, 118] {
        assert!(
            said.contains(&format!(
                "rows.jsonl:{line}: dataset format ticket of plugin mine"
            )),
            "{said}"
        );
    }
    assert!(said.contains("KeyError: 'text' (mine.py:"), "{said}");
}

/// The processes that a program leaves behind end with it, however the run ends.
#[test]
#[cfg(target_os = "linux")]
fn nothing_of_a_program_is_left_behind() {
    let home = tempfile::tempdir().unwrap();
    let answers = r#"while [ -n "$q" ]; do id=${q#*id\":}; id=${id%%,*}; echo "{\"id\": $id, \"error\": \"no\"}"; read q || q=; done"#;
    // How it is called, what it does with a call, whether the run gets a signal.
    let cases = [
        ("ends", answers, false),
        ("stays", "while read q; do :; done; sleep 300", false),
        ("fails", "exit 1", false),
        ("hangs", "sleep 300", false),
        ("interrupted", "touch $0.called; sleep 300", true),
    ];
    for (name, then, interrupt) in cases {
        let does = format!("sleep 300 & echo $! > $0.pid\n{}", scale(then));
        let mut line = hurried(home.path(), name, &does);
        if interrupt {
            let file = home.path().join(name);
            line = data(&format!("cmd:{}", file.display()), "--loss_scale s");
        }
        if name == "stays" {
            line = format!(
                "components --plugin cmd:{}",
                home.path().join(name).display()
            );
        }
        let mut run = Command::new(env!("CARGO_BIN_EXE_apus"))
            .args(common::words(&line))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        if interrupt {
            let called = home.path().join(format!("{name}.called"));
            while !called.exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            let id = run.id().to_string();
            Command::new("kill").args(["-INT", &id]).status().unwrap();
        }
        run.wait().unwrap();
        let pid = fs::read_to_string(home.path().join(format!("{name}.pid"))).unwrap();
        let process = Path::new("/proc").join(pid.trim());
        let asked = Instant::now();
        while process.join("exe").exists() && asked.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(
            !process.join("exe").exists(),
            "{name}: process {pid} is left behind"
        );
    }
}

#[test]
fn what_cannot_be_started_is_said() {
    let said = common::fails(&data("cmd:./there/is/none", ""), 1, &["cannot be started"]);
    assert!(said.contains("cmd:./there/is/none"), "{said}");
    common::fails(&data("cmd:", ""), 1, &["names no command"]);
}
