//! Runs over rows of different lengths, one row a step, that write down which of them each step takes.

use super::training::TINY;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Words of the answer of each row: none are as long as another.
pub const WORDS: [usize; 6] = [9, 3, 14, 1, 6, 11];

/// A folder with two files of rows.
pub fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let row = |words: &usize| {
        let response = format!("word{} ", words % 4).repeat(*words);
        json!({"query": "Say it.", "response": response.trim()}).to_string()
    };
    for (file, words) in [("a.jsonl", &WORDS[..]), ("b.jsonl", &WORDS[..2])] {
        let rows: Vec<String> = words.iter().map(row).collect();
        fs::write(home.path().join(file), rows.join("\n")).unwrap();
    }
    home
}

/// A file of rows with a column `difficulty`, which the row of these places does not have.
pub fn difficult(home: &Path, values: &[Option<f64>]) -> String {
    let row = |value: &Option<f64>| {
        let mut row = json!({"query": "Say it.", "response": "It."});
        if let Some(value) = value {
            row["difficulty"] = json!(value);
        }
        row.to_string()
    };
    let file = home.join("difficult.jsonl");
    let rows: Vec<String> = values.iter().map(row).collect();
    fs::write(&file, rows.join("\n")).unwrap();
    file.display().to_string()
}

/// Flags of a run over `a.jsonl`, one row a step, which writes its order to `NAME.order`.
pub fn flags(home: &Path, name: &str, more: &str) -> String {
    format!(
        "--model {TINY}/model_mxfp4 --dataset {} --dataset_shuffle false --gradient_accumulation_steps 1 --num_train_epochs 2 \
         --save_strategy no --plugin {} {} --loss_type recording --loss_type.file {} {more}",
        home.join("a.jsonl").display(),
        super::library("asking_plugin").display(),
        super::library("curriculum").display(),
        home.join(format!("{name}.order")).display()
    )
}

/// The examples of each step, by its number; a step that was made again took the same ones.
pub fn steps(home: &Path, name: &str) -> BTreeMap<u64, Vec<usize>> {
    let text = fs::read_to_string(home.join(format!("{name}.order"))).unwrap();
    let mut steps: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for line in text.lines() {
        let (step, row) = line.split_once(' ').unwrap();
        let rows = steps.entry(step.parse().unwrap()).or_default();
        rows.push(row.parse().unwrap());
    }
    steps
}
