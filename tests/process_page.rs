//! The page about processes: its programs say what its lines say, and run.

mod common;

use common::process::{blocks, page, program, python};
use common::training::{TINY, checkpoints, log, trains};
use serde_json::Value;
use std::fs;
use std::process::Command;

#[test]
fn the_page_says_what_its_programs_say() {
    if !python() {
        return;
    }
    let to_copy = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/process/apus_plugin.py"
    );
    assert!(fs::read_to_string(to_copy).unwrap().lines().count() < 60);
    let home = tempfile::tempdir().unwrap();
    // The lines after a program are a talk with it.
    let page = page();
    let parts: Vec<&str> = page.split("```python\n").skip(1).collect();
    assert_eq!(parts.len(), 3, "programs");
    for part in parts {
        let text = part.split("\n```").next().unwrap();
        program(home.path(), "page.py", text);
        let lines: Vec<Value> = blocks(part, "json")
            .iter()
            .flat_map(|block| block.lines())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let (questions, answers): (Vec<&Value>, Vec<&Value>) =
            lines.iter().partition(|line| line.get("do").is_some());
        assert!(questions.len() >= 4 && questions.len() == answers.len());
        let input = home.path().join("questions");
        let text: String = questions.iter().map(|line| format!("{line}\n")).collect();
        fs::write(&input, text).unwrap();
        let output = Command::new("python3")
            .arg(home.path().join("page.py"))
            .stdin(fs::File::open(&input).unwrap())
            .output()
            .unwrap();
        let said = common::text(&output);
        let said: Vec<Value> = said
            .lines()
            .map(|line| serde_json::from_str(line).expect(&said))
            .collect();
        assert_eq!(said.len(), answers.len());
        for (said, answer) in said.iter().zip(answers) {
            assert_eq!(without_errors(said), without_errors(answer));
        }
    }
}

/// The same, where every error says the same: what Python says differs with its version.
fn without_errors(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| match key.as_str() {
                "error" => (key.clone(), "an error".into()),
                _ => (key.clone(), without_errors(value)),
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(without_errors).collect::<Vec<_>>().into(),
        other => other.clone(),
    }
}

/// The callback of the page asks, hears and keeps; its sampler orders.
#[test]
fn the_programs_of_the_page_run() {
    if !python() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let programs = blocks(&page(), "python");
    // No model of this size knows the capital: whatever it says is right.
    let quiz = programs[1].replace("\"Paris\" in", "\"\" in");
    let quiz = program(home.path(), "quiz.py", &quiz);
    let samplers = program(home.path(), "samplers.py", &programs[2]);
    let dir = home.path().join("run");
    for sampler in ["short_first", "hard_often"] {
        let said = trains(
            &dir,
            &format!(
                "--model {TINY}/model_mxfp4 --max_steps 6 --gradient_accumulation_steps 2 --save_total_limit 1 \
                 --save_strategy no --plugin {quiz} {samplers} --callbacks quiz \
                 --sampler {sampler}"
            ),
        );
        assert!(!said.contains("warning"), "{said}");
        let path = dir.join("checkpoint-6/adapter_model.safetensors");
        let adapter = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
        for (name, tensor) in adapter.iter().filter(|(name, _)| name.contains("lora_B")) {
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            let is_trained = values.iter().any(|&value| value != 0.0);
            assert_eq!(is_trained, !name.contains("layers.0."), "{name}");
        }
        let right: Vec<Value> = log(&dir)
            .iter()
            .filter_map(|line| line.get("right").cloned())
            .collect();
        assert_eq!(right, [1, 1, 1], "{sampler}");
        assert_eq!(checkpoints(&dir), [2, 4, 6], "all are kept");
        fs::remove_dir_all(&dir).unwrap();
    }
}
