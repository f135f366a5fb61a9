//! A dataset format of a plugin library that says which columns it reads, in the real binary.

mod common;

use common::{fails, folder, works};
use serde_json::json;
use std::fs;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// `apus data` on a file, read by the format.
fn data(file: &str, flags: &str) -> String {
    let library = common::library("asking_plugin");
    format!(
        "data {file} --tokenizer {ROOT}/tests/goldens/tiny/model_bf16 --current_date 2025-08-05 --plugin {} \
         --dataset_format pairs_of_columns {flags}",
        library.display()
    )
}

#[test]
fn the_other_columns_are_left_out_and_named() {
    let dir = folder("columns");
    let file = dir.join("rows.jsonl");
    let rows = [
        json!({"query": "a", "response": "b", "topic": "x", "id": null}),
        json!({"topic": "y", "query": "a", "response": "b"}),
        json!({"query": "a", "response": "b", "stars": [1, {"query": 2}]}),
    ];
    fs::create_dir_all(&dir).unwrap();
    let lines: Vec<String> = rows.iter().map(ToString::to_string).collect();
    fs::write(&file, lines.join("\n")).unwrap();
    let parquet = format!("{ROOT}/tests/cases/parquet/no_text.parquet");
    let jsonl = file.display().to_string();
    for (file, unused) in [
        (
            &jsonl,
            "not used: stars (1 row, line 3), topic (2 rows, first in line 1)",
        ),
        (&parquet, "not used: picture ("),
    ] {
        let said = works(&data(file, ""));
        assert!(said.contains(unused), "{said}");
        assert!(!said.contains("does not say which columns"), "{said}");
        fails(&data(file, "--strict true"), 1, &["not used: ", "(strict)"]);
    }
}

#[test]
fn a_column_that_no_row_has_is_named() {
    let dir = folder("absent");
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join("rows.jsonl");
    fs::write(&file, json!({"query": "a", "response": "b"}).to_string()).unwrap();
    let flags = "--dataset_format.columns query response reply";
    let said = works(&data(&file.display().to_string(), flags));
    let expected = "dataset format pairs_of_columns reads a column `reply`, which no row has";
    assert!(said.contains(expected), "{said}");
}
