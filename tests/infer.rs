//! `apus infer` over a dataset: each row for itself.

mod common;

use common::{apus, folder, text, words};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

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
