//! `apus infer --metric`: metrics that read the answers in a file of them, whoever wrote its lines.

use super::measure::{measure, split};
use crate::host::RunView;
use anyhow::{Context, Result, ensure};
use apus_components::registry::{self, Named, Spec};
use apus_sdk::{Metric, TextPair, json, outln};
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// Metrics that read answers.
pub struct Scores {
    metrics: Vec<Named<dyn Metric>>,
    /// What the metrics were told of.
    _view: Option<RunView>,
}

impl Scores {
    /// Those among these metrics that read answers; none if there are none.
    ///
    /// # Errors
    /// A metric that there is not, or options that it does not take.
    pub fn of(specs: &[Spec]) -> Result<Option<Self>> {
        let metrics = specs.iter().map(registry::named).collect::<Result<_>>()?;
        let (_, metrics) = split(metrics);
        let _view = None;
        Ok((!metrics.is_empty()).then_some(Self { metrics, _view }))
    }

    /// Gives the metrics what they may see: there is no training, and no parameter.
    ///
    /// # Errors
    /// A metric failed; the error names it.
    pub fn begin(mut self, view: RunView) -> Result<Self> {
        for metric in &mut self.metrics {
            view.begin(metric, |metric, run| metric.begin(run))?;
        }
        self._view = Some(view);
        Ok(self)
    }

    /// Compares `response` and `labels` of every line of a file of answers, prints the values, and writes them beside it.
    ///
    /// # Errors
    /// A file that cannot be read again or holds no pair, a metric that failed.
    pub fn print(mut self, path: &Path) -> Result<()> {
        ensure!(
            path.is_file(),
            "{}: metrics read the answers from a file; give one with --result_path",
            path.display()
        );
        let (pairs, rows) = pairs(path)?;
        let texts: Vec<TextPair> = pairs
            .iter()
            .map(|(reference, answer)| TextPair { reference, answer })
            .collect();
        ensure!(
            !texts.is_empty(),
            "{}: none of {rows} rows has an answer and labels to compare it with",
            path.display()
        );
        let values = measure(&mut self.metrics, &texts)?;
        for (name, value) in &values {
            outln!("{name}: {value:.6}");
        }
        let mut written: Map<String, Value> = values
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        written.insert("rows".to_owned(), texts.len().into());
        written.insert("rows_left_out".to_owned(), (rows - texts.len()).into());
        let beside = beside(path);
        let text = format!("{:#}\n", Value::Object(written));
        fs::write(&beside, text)
            .with_context(|| format!("{}: cannot be written", beside.display()))?;
        outln!("metrics: {}", beside.display());
        Ok(())
    }
}

/// `answers.jsonl` has its metrics in `answers.metrics.json`.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("metrics.json")
}

/// Labels and responses of the lines that have both, and how many lines there are.
fn pairs(path: &Path) -> Result<(Vec<(String, String)>, usize)> {
    let place = |line: usize| format!("{}:{line}", path.display());
    let text =
        fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let mut pairs = Vec::new();
    let mut rows = 0;
    for (line, at) in text.lines().zip(1..) {
        rows += 1;
        let line: Value = json::read(line)
            .map_err(|error| anyhow::anyhow!("{error}"))
            .with_context(|| place(at))?;
        if let [Some(labels), Some(response)] =
            ["labels", "response"].map(|key| spelled(&line[key]))
        {
            pairs.push((labels, response));
        }
    }
    Ok((pairs, rows))
}

fn spelled(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(json::text(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_both_texts_are_compared() {
        apus_plugins::link();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        let lines = [
            r#"{"response": "a", "labels": "a"}"#,
            r#"{"response": "b", "labels": null}"#,
            r#"{"response": null, "labels": "c", "error": "x"}"#,
            r#"{"response": "{\"d\":1}", "labels": {"d": 1}}"#,
            r#"{"response": "e", "labels": "f"}"#,
        ];
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        let spec = |name: &str| Spec::named(name);
        assert!(Scores::of(&[spec("token_acc")]).unwrap().is_none());
        let scores = Scores::of(&[spec("token_acc"), spec("exact_match")]).unwrap();
        scores.unwrap().print(&path).unwrap();
        let written = fs::read_to_string(dir.path().join("answers.metrics.json")).unwrap();
        let written: Value = serde_json::from_str(&written).unwrap();
        assert_eq!(written["exact_match"], 2.0 / 3.0);
        assert_eq!(
            (&written["rows"], &written["rows_left_out"]),
            (&3.into(), &2.into())
        );
        fs::write(&path, "{\"response\": \"a\"}\n").unwrap();
        let scores = Scores::of(&[spec("exact_match")]).unwrap().unwrap();
        let error = scores.print(&path).unwrap_err().to_string();
        assert!(error.contains("none of 1 rows"), "{error}");
    }
}
