//! Runs of the real binary that are tracked by SwanLab, against a server on this machine.

mod common;
#[path = "../plugins/swanlab/tests/swanlab/server/mod.rs"]
mod server;

use common::{apus, text, words};
use server::{Fault, KEY, Server};
use std::fs;
use std::path::{Path, PathBuf};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// `apus sft` on the tiny model.
fn sft(dir: &Path, flags: &str) -> String {
    format!(
        "sft --dataset {TINY}/chat_train.jsonl --model {TINY}/model_mxfp4 --current_date 2025-08-05 --device cpu \
         --logging_steps 1 --learning_rate 1e-3 --gradient_accumulation_steps 1 --output_dir {} --add_version false \
         --report_to swanlab {flags}",
        dir.display()
    )
}

/// Runs a command with the server in its environment; it has to work. Gives what it said.
#[track_caller]
fn works(server: &Server, line: &str, more: &[(&str, &str)]) -> String {
    let mut environment = vec![("SWANLAB_API_HOST", server.url.as_str())];
    environment.extend(more);
    let output = apus(&words(line), &environment);
    let said = text(&output);
    assert!(output.status.success(), "apus {line}\n{said}");
    said
}

/// Nothing that is written or said holds the key.
#[track_caller]
fn keyless(dir: &Path, said: &str) {
    assert!(!said.contains(KEY), "{said}");
    let mut folders = vec![dir.to_owned()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let bytes = fs::read(&path).unwrap();
            let held = bytes.windows(KEY.len()).any(|part| part == KEY.as_bytes());
            assert!(!held, "{}", path.display());
        }
    }
    assert!(files > 3);
}

fn run_of(dir: &Path) -> PathBuf {
    let entries = fs::read_dir(dir.join("swanlog")).unwrap();
    let mut dirs = entries.map(|entry| entry.unwrap().path());
    dirs.find(|path| path.is_dir()).unwrap()
}

fn steps(server: &Server) -> Vec<i64> {
    let experiment = server.experiment();
    let keys = experiment.numbers.into_keys();
    keys.filter(|(key, _)| key == "train/loss")
        .map(|(_, step)| step)
        .collect()
}

#[test]
fn a_run_and_what_it_becomes_when_resumed() {
    let home = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| home.path().join(name));
    let server = Server::start();
    let flags = "--max_steps 5 --save_steps 3 --swanlab_project swift-robot --swanlab_exp_name mine --sample_prompts Hi";
    let line = sft(&first, &format!("{flags} --swanlab_token {KEY}"));
    let said = works(&server, &line, &[]);
    assert!(said.contains("/@tester/swift-robot/runs/"), "{said}");
    assert!(
        said.contains("SWANLAB_API_KEY, ~/.swanlab/.netrc or `apus swanlab login`"),
        "{said}"
    );
    keyless(&first, &said);
    let e = server.experiment();
    assert_eq!(e.body["name"], "mine");
    assert_eq!(e.profile["config"]["lora_rank"]["value"], 8);
    assert!(e.profile["metadata"]["hardware"]["cpu"].is_object());
    assert!(
        e.lines
            .values()
            .any(|(_, line)| line.contains("trainable 18,432")),
        "{:?}",
        e.lines
    );
    assert!(e.media.keys().any(|(key, _)| key == "Hi"));
    let all = format!("{e:?}");
    assert!(!all.contains(KEY), "{all}");

    let line = sft(
        &second,
        &format!(
            "--max_steps 8 --resume_changes max_steps --swanlab_project swift-robot --resume_from_checkpoint {}/checkpoint-3",
            first.display()
        ),
    );
    let said = works(&server, &line, &[("SWANLAB_API_KEY", KEY)]);
    keyless(&second, &said);
    assert_eq!(
        steps(&server),
        (1..=8).collect::<Vec<_>>(),
        "one run, no step twice"
    );
    assert_eq!(server.experiment().states, ["FINISHED", "FINISHED"]);
}

#[test]
fn a_server_that_is_down_costs_nothing_and_the_run_is_sent_later() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = [
        ("SWANLAB_API_HOST", "http://127.0.0.1:9"),
        ("SWANLAB_API_KEY", KEY),
    ];
    let line = sft(
        dir.path(),
        "--max_steps 4 --trackers swanlab --trackers.finish_timeout 0.2",
    );
    let output = apus(&words(&line), &nobody);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let run = run_of(dir.path());
    let command = format!("apus swanlab sync {}", run.display());
    assert!(said.contains(&command), "{command:?} not in: {said}");

    let server = Server::start();
    let said = works(
        &server,
        &command["apus ".len()..],
        &[("SWANLAB_API_KEY", KEY)],
    );
    assert!(said.contains("/@tester/ms-swift/runs/"), "{said}");
    assert_eq!(steps(&server), [1, 2, 3, 4]);
    let said = works(
        &server,
        &command["apus ".len()..],
        &[("SWANLAB_API_KEY", KEY)],
    );
    assert!(said.contains("everything is there already"), "{said}");
    keyless(dir.path(), &said);
}

#[test]
#[cfg(unix)]
fn a_run_that_is_killed_has_sent_or_kept_what_it_logged() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let line = sft(dir.path(), "--max_steps 100000 --save_strategy no");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_apus"))
        .args(words(&line))
        .envs([
            ("SWANLAB_API_HOST", server.url.as_str()),
            ("SWANLAB_API_KEY", KEY),
        ])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let numbers = |world: &server::World| world.experiments.values().any(|e| e.numbers.len() > 20);
    server.wait("the first numbers", numbers);
    // From here on, what is taken is not confirmed.
    server.fail("/house/metrics", Fault::Lost, 1);
    server.fail("/house/metrics", Fault::Status(503), 9999);
    server.wait("a lost answer", |world| world.faults[0].2 == 0);
    child.kill().unwrap();
    child.wait().unwrap();
    server.world().faults.clear();

    let command = format!("swanlab sync {}", dir.path().display());
    works(&server, &command, &[("SWANLAB_API_KEY", KEY)]);
    let logged = fs::read_to_string(dir.path().join("logging.jsonl")).unwrap();
    let logged = logged
        .lines()
        .filter(|line| line.contains("\"loss\""))
        .count() as i64;
    let steps = steps(&server);
    assert_eq!(steps, (1..=steps.len() as i64).collect::<Vec<_>>());
    assert!(
        steps.len() as i64 >= logged - 2,
        "{} of {logged}",
        steps.len()
    );
}

#[test]
fn a_key_is_checked_before_it_is_stored() {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().display().to_string();
    let server = Server::start();
    let host = format!("--host {}", server.url);
    let at_home = [("SWANLAB_ROOT", root.as_str())];
    let fails = |line: &str| {
        let output = apus(&words(line), &at_home);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        text(&output)
    };
    let said = fails("swanlab verify");
    assert!(
        said.contains("there is no key for https://api.swanlab.cn"),
        "{said}"
    );
    let said = fails(&format!(
        "swanlab login --key not-the-right-key-at-all {host}"
    ));
    assert!(
        said.contains("The key is wrong") && !said.contains("not-the-right-key"),
        "{said}"
    );
    assert!(!home.path().join(".netrc").exists());
    let line = format!("swanlab login --key {KEY} {host}");
    let said = works(&server, &line, &at_home);
    assert!(
        said.contains("logged in as tester (Tester)") && !said.contains(KEY),
        "{said}"
    );
    let said = works(&server, "swanlab verify", &at_home);
    assert!(said.contains(&server.url), "{said}");
}

#[test]
fn wrong_flags_are_named_before_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    for (flags, says) in [
        (
            "--swanlab_mode clod",
            "expected cloud, local, offline or disabled",
        ),
        (
            "--swanlab_notification_method lark",
            "swanlab_webhook_url is not given",
        ),
        (
            "--swanlab_smtp_port 99999",
            "swanlab_smtp_port is 99999, expected",
        ),
    ] {
        common::fails(&sft(dir.path(), flags), 2, &[says]);
    }
}
