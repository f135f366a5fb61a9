//! What the Python packages give: `tests/goldens/text_metrics.jsonl`, written by the script beside it.

use serde::Deserialize;
use std::collections::BTreeMap;

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/goldens/text_metrics.jsonl"
);

/// A line of the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Row(Row),
    Words { text: String, words: Vec<String> },
    Means { means: BTreeMap<String, f64> },
}

/// A pair of texts and its scores, by metric.
#[derive(Deserialize)]
pub struct Row {
    pub reference: String,
    pub answer: String,
    pub values: BTreeMap<String, f64>,
}

impl Row {
    /// Compares a score; where a package has none, because a text has no words, it is 0.
    #[track_caller]
    pub fn check(&self, name: &str, value: f64) {
        let expected = self.values.get(name).copied().unwrap_or(0.0);
        let (reference, answer) = (&self.reference, &self.answer);
        assert!(
            (value - expected).abs() < 1e-9,
            "{name}: {value}, expected {expected}; {reference:?} {answer:?}"
        );
    }
}

fn lines() -> impl Iterator<Item = Line> {
    let text = std::fs::read_to_string(FILE).unwrap();
    let lines: Vec<Line> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(lines.len() > 100);
    lines.into_iter()
}

/// Pairs of texts.
pub fn rows() -> Vec<Row> {
    lines()
        .filter_map(|line| match line {
            Line::Row(row) => Some(row),
            _ => None,
        })
        .collect()
}

/// Texts and their words.
pub fn words() -> Vec<(String, Vec<String>)> {
    lines()
        .filter_map(|line| match line {
            Line::Words { text, words } => Some((text, words)),
            _ => None,
        })
        .collect()
}

/// Values over all rows.
pub fn means() -> BTreeMap<String, f64> {
    let means = lines().filter_map(|line| match line {
        Line::Means { means } => Some(means),
        _ => None,
    });
    means.flatten().collect()
}
