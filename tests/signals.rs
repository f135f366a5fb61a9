//! A signal is heard wherever a run is: it saves what was trained and leaves, within moments.
#![cfg(unix)]

mod common;

use common::{folder, works};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny");

/// What an evaluation or an answer must not keep a run from. Far less than what it would take.
const MOMENTS: Duration = Duration::from_secs(10);

fn sft(dir: &Path, flags: &str) -> String {
    format!(
        "sft --model {TINY}/model_bf16 --dataset {TINY}/chat_train.jsonl --current_date 2025-08-05 --device cpu \
         --gradient_accumulation_steps 1 --lora_rank 4 --logging_steps 1 --max_steps 20 --output_dir {} \
         --add_version false {flags}",
        dir.display()
    )
}

/// So many rows to evaluate on that it takes minutes.
fn many_rows(dir: &Path) -> String {
    let rows = fs::read_to_string(format!("{TINY}/chat_train.jsonl")).unwrap();
    let path = dir.join("many.jsonl");
    fs::write(&path, rows.repeat(4000)).unwrap();
    path.display().to_string()
}

/// Sends a signal once `is_time`; how long the run took to leave, and what it said.
fn interrupted(line: &str, is_time: impl Fn() -> bool) -> (Duration, Output) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apus"));
    command.args(line.split_whitespace());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    while !is_time() {
        assert!(
            started.elapsed() < Duration::from_secs(240),
            "it is never time"
        );
        sleep(Duration::from_millis(20));
    }
    // Well into what it is at.
    sleep(Duration::from_millis(500));
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    let asked = Instant::now();
    let output = child.wait_with_output().unwrap();
    (asked.elapsed(), output)
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("logging.jsonl")).unwrap_or_default()
}

fn is_saved(dir: &Path, step: u64) -> bool {
    dir.join(format!("checkpoint-{step}/trainer_state.json"))
        .is_file()
}

#[test]
fn an_evaluation_is_cut_off_and_made_no_second_time() {
    let home = folder("signal-evaluation");
    let dir = home.join("run");
    let flags = format!(
        "--val_dataset {} --eval_strategy steps --eval_steps 2 --save_steps 100",
        many_rows(&home)
    );
    let line = sft(&dir, &flags);
    let (took, output) = interrupted(&line, || log(&dir).contains("\"2/20\""));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(took < MOMENTS, "{took:?}");
    assert!(!log(&dir).contains("eval_loss"));
    assert!(is_saved(&dir, 2), "{said}");

    // What was cut off counts for nothing: the rest of the run is that of one that was never stopped.
    let losses = |dir: &Path| {
        let lines = log(dir);
        let lines = lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let lines: Vec<f64> = lines
            .filter_map(|line| line.get("loss")?.as_f64())
            .collect();
        lines
    };
    let (rest, whole) = (home.join("rest"), home.join("whole"));
    let resume = format!(
        "--resume_from_checkpoint {}",
        dir.join("checkpoint-2").display()
    );
    works(&sft(&rest, &resume));
    works(&sft(&whole, ""));
    assert_eq!(losses(&whole)[2..], losses(&rest));
}

#[test]
fn answers_are_cut_off() {
    // Before the first step there is nothing to save.
    let dir = folder("signal-before");
    let long = "--max_new_tokens 100000 --sample_prompts a b c d e f g h i j k l m n o p q r s t u v w x y z";
    let line = sft(&dir, long);
    let (took, output) = interrupted(&line, || dir.join("args.json").is_file());
    assert_eq!(output.status.code(), Some(130));
    assert!(took < MOMENTS, "{took:?}");
    assert_eq!(log(&dir), "");
    assert!(!is_saved(&dir, 0) && !is_saved(&dir, 1));
}

#[test]
fn a_step_is_cut_off_between_micro_batches() {
    let home = folder("signal-step");
    let dir = home.join("run");
    let many = many_rows(&home);
    let flags = format!("--dataset {many} --gradient_accumulation_steps 16000 --max_steps 3");
    let line = sft(&dir, "").replace("--gradient_accumulation_steps 1 ", "");
    let line = line
        .replace("--max_steps 20", &flags)
        .replace(&format!("--dataset {TINY}/chat_train.jsonl"), "");
    let (took, output) = interrupted(&line, || dir.join("args.json").is_file());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(took < MOMENTS, "{took:?}");
    assert!(!is_saved(&dir, 1) && !is_saved(&dir, 0), "{said}");
}
