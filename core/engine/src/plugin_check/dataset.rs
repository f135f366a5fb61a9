//! Datasets: a source, rows where it makes them, and no panic for a row of any shape.

use super::{Checked, Finding, Findings, push};
use anyhow::{Result, ensure};
use apus_sdk::{Dataset, Row};
use serde_json::{Value, json};

pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    let mut made = checked.make::<dyn Dataset>()?;
    let source = match made.component.source(&[]) {
        Ok(source) => source,
        Err(error) if error.panicked() => {
            findings.push(Finding::Bad(error.to_string()));
            return Ok(());
        }
        Err(error) => {
            findings.push(Finding::Note(format!(
                "no source with default options: {error}"
            )));
            return Ok(());
        }
    };
    let (on_hf, on_ms) = source.ids();
    let mut said: Vec<&str> = [on_hf, on_ms, source.files()]
        .into_iter()
        .flatten()
        .collect();
    if said.is_empty() {
        said.push("rows that it makes");
        let rows = made
            .context("rows", made.component.rows())
            .and_then(|rows| {
                ensure!(!rows.is_empty(), "there are none");
                Ok(rows.len().to_string())
            });
        push(findings, "rows", rows);
    }
    findings.push(Finding::Good(format!("source: {}", said.join(", "))));
    if source.is_changing() {
        for row in [
            json!({}),
            json!({"query": 1}),
            json!({"query": "a", "response": "b", "messages": []}),
        ] {
            let row = match row {
                Value::Object(row) => row,
                _ => Row::new(),
            };
            if let Err(error) = made.component.row(row)
                && error.panicked()
            {
                findings.push(Finding::Bad(error.to_string()));
            }
        }
    }
    Ok(())
}
