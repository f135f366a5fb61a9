//! `apus infer` over a dataset: each row for itself.

mod common;

use common::{apus, fails, folder, text, words, works};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tiny/model_bf16");
const SAME: &str = r#"{"query": "What?", "id": 123456789012345678901234567890}"#;

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn rows_draw_for_themselves_and_a_bad_one_leaves_the_others_alone() {
    let dir = folder("infer-rows");
    let rows = dir.join("rows.jsonl");
    let long = format!(r#"{{"query": "{}"}}"#, "word ".repeat(200));
    let bad = [r#"{"query": 1}"#, "{\"query\": ", r#"{"id": 5}"#, &long];
    let mut all = vec![SAME; 24];
    for (at, row) in [3, 9, 12, 20].into_iter().zip(bad) {
        all[at] = row;
    }
    fs::write(&rows, all.join("\n")).unwrap();
    let answers = |name: &str, more: &str| {
        let path = dir.join(name);
        let line = format!(
            "infer --model {MODEL} --val_dataset {} --current_date 2025-08-05 --max_new_tokens 6 --max_length 150 \
             --result_path {} {more}",
            rows.display(),
            path.display()
        );
        (path, apus(&words(&line), &[]))
    };
    let (path, output) = answers("one.jsonl", "--temperature 1");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        "20 answers",
        "4 of 24 rows have no answer",
        "rows.jsonl:4",
        "rows.jsonl:10: malformed JSON",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let one = lines(&path);
    assert_eq!(one.len(), 24);
    let mut given = BTreeSet::new();
    for (number, line) in one.iter().enumerate() {
        let error = line["error"].as_str();
        if [3, 9, 12, 20].contains(&number) {
            let place = format!("rows.jsonl:{}", number + 1);
            assert!(error.unwrap().contains(&place), "{line}");
            assert!(line["response"].is_null() && line.get("response").is_some());
        } else {
            assert_eq!(error, None, "{line}");
            given.insert(line["messages"].to_string());
        }
    }
    assert!(given.len() > 15, "{given:?}");
    assert!(
        one[20]["error"]
            .as_str()
            .unwrap()
            .contains("max_length is 150")
    );
    let written = fs::read_to_string(&path).unwrap();
    assert!(written.contains(r#""id":123456789012345678901234567890"#));

    let (path, _) = answers("two.jsonl", "--temperature 1");
    assert_eq!(lines(&path), one);
    let (path, _) = answers("few.jsonl", "--temperature 1 --val_dataset_sample 8");
    assert_eq!(lines(&path), one[..8]);
    let (path, _) = answers("other.jsonl", "--temperature 1 --seed 7");
    assert_ne!(lines(&path), one);
    let (path, _) = answers("greedy.jsonl", "--temperature 0");
    let greedy = lines(&path);
    assert!(greedy[4..9].iter().all(|line| line == &greedy[0]));
    let (path, _) = answers(
        "penalised.jsonl",
        "--temperature 0 --repetition_penalty 0.5",
    );
    assert_ne!(lines(&path)[0]["response"], greedy[0]["response"]);

    let (path, output) = answers("strict.jsonl", "--strict true");
    let said = text(&output);
    assert!(
        !output.status.success() && said.contains("rows.jsonl:4"),
        "{said}"
    );
    assert!(!path.exists());
}

#[test]
fn values_that_cannot_be_meant() {
    let rows = folder("infer-values").join("rows.jsonl");
    fs::write(&rows, SAME).unwrap();
    for (flag, expected) in [
        ("--temperature -0.5", "temperature is -0.5"),
        ("--top_p 1.5", "top_p is 1.5"),
        ("--top_p 0", "top_p is 0"),
        ("--top_k -2", "top_k is -2"),
        ("--repetition_penalty 0", "repetition_penalty is 0"),
        ("--max_new_tokens 0", "max_new_tokens is 0"),
    ] {
        let line = format!(
            "infer --model {MODEL} --val_dataset {} {flag}",
            rows.display()
        );
        let output = apus(&words(&line), &[]);
        let said = text(&output);
        assert!(!output.status.success(), "{flag}: {said}");
        assert!(said.contains(expected), "{flag}: {said}");
    }
}

/// What a run rendered is what its weights are asked with: an adapter, a model merged from it, and a model that was
/// trained whole.
#[test]
fn weights_are_asked_as_their_run_was_told() {
    let dir = folder("infer-told");
    let rows = dir.join("rows.jsonl");
    fs::write(
        &rows,
        r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>b</think>c"},
            {"role": "user", "content": "d"}, {"role": "assistant", "content": "e"}]}"#
            .replace('\n', " "),
    )
    .unwrap();
    let asked = std::cell::Cell::new(0);
    let prompt = |weights: &str| {
        asked.set(asked.get() + 1);
        let said = works(&format!(
            "infer {weights} --val_dataset {} --max_new_tokens 1 --temperature 0 --result_path {}/answers-{}.jsonl",
            rows.display(),
            dir.display(),
            asked.get()
        ));
        let count = said.split(" prompt tokens").next().unwrap();
        count.rsplit(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let told = "--system Mew. --think_to_analysis false --reasoning_effort low --current_date 2025-01-02 \
                --template_backend native";
    let expected = prompt(&format!("--model {MODEL} {told}"));
    let plain = prompt(&format!("--model {MODEL} --current_date 2025-01-02"));
    assert_ne!(expected, plain);
    let train = |name: &str, more: &str| {
        let out = dir.join(name);
        works(&format!(
            "sft --model {MODEL} --dataset {} --max_steps 1 --output_dir {} --add_version false {told} {more}",
            rows.display(),
            out.display()
        ));
        out.join("checkpoint-1").display().to_string()
    };
    let adapter = train("adapter", "--lora_rank 2");
    assert_eq!(prompt(&format!("--adapters {adapter}")), expected);
    works(&format!("export --adapters {adapter} --merge_lora true"));
    assert_eq!(prompt(&format!("--model {adapter}-merged")), expected);
    works(&format!(
        "export --adapters {adapter} --merge_lora true --exist_ok true"
    ));
    let whole = train("whole", "--train_type full");
    assert_eq!(prompt(&format!("--model {whole}")), expected);
    let no_system = format!("--model {whole} --system Mewmewmewmewmew. --think_to_analysis true");
    assert_ne!(prompt(&no_system), expected);
    // Without a file, answers lie beside the weights.
    works(&format!(
        "infer --model {whole} --val_dataset {} --max_new_tokens 1",
        rows.display()
    ));
    assert!(fs::read_dir(format!("{whole}/infer_result")).is_ok());
}

#[test]
fn a_conversation_is_written_down_and_bounded() {
    let dir = folder("infer-terminal");
    let path = dir.join("talk.jsonl");
    let line = format!(
        "infer --model {MODEL} --temperature 0 --max_new_tokens 3 --max_length 150 --val_dataset_sample 3 --result_path {}",
        path.display()
    );
    let mut child = Command::new(env!("CARGO_BIN_EXE_apus"))
        .args(words(&line))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let typed = format!("One?\n{}\nTwo?\nexit\n", "word ".repeat(200));
    let mut input = child.stdin.take().unwrap();
    input.write_all(typed.as_bytes()).unwrap();
    drop(input);
    let said = text(&child.wait_with_output().unwrap());
    assert!(said.contains("tokens, max_length is 150"), "{said}");
    assert!(said.contains("note: val_dataset_sample: "), "{said}");
    let lines = lines(&path);
    let questions: Vec<_> = lines.iter().map(|line| &line["messages"]).collect();
    assert_eq!(questions.len(), 2, "{questions:?}");
    assert_eq!(questions[0].as_array().unwrap().len(), 2);
    assert_eq!(questions[1][2]["content"], "Two?");
    assert!(lines[0]["response"].is_string());
}

#[test]
fn what_is_not_there_or_leads_nowhere_is_named() {
    fails(
        &format!("infer --model {MODEL} --input_ids 1 2"),
        1,
        &["--dump_logits FILE, which is missing"],
    );
    for command in ["infer", "export --merge_lora true"] {
        fails(
            &format!("{command} --adapters owner/name"),
            1,
            &["owner/name: there is no such adapter"],
        );
    }
    fails(
        &format!("export --model {MODEL} --quantize mxfp4 --plugin /nowhere.so"),
        1,
        &["/nowhere.so"],
    );
}
