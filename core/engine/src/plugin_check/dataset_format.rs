//! Dataset formats: rows of the usual shapes are converted, and rows of other shapes cause no panic.

use super::{Checked, Finding, Findings, push};
use anyhow::{Result, ensure};
use apus_sdk::{DatasetFormat, Row, Sample};
use serde_json::{Value, json};

/// Rows of the usual shapes, to see which ones a format reads.
fn sample_rows() -> Vec<(&'static str, Value)> {
    vec![
        (
            "messages",
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
        ),
        (
            "alpaca",
            json!({"instruction": "a", "input": "b", "output": "c", "history": [["d", "e"]]}),
        ),
        (
            "sharegpt",
            json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
        ),
        ("query and response", json!({"query": "a", "response": "b"})),
        ("two texts", json!({"text": "a", "label": "b"})),
    ]
}

fn row(value: Value) -> Row {
    match value {
        Value::Object(row) => row,
        _ => Row::new(),
    }
}

pub(super) fn check(checked: &Checked, findings: &mut Findings) -> Result<()> {
    let made = checked.make::<dyn DatasetFormat>()?;
    let format = made.component.as_ref();
    match format.columns() {
        Ok(Some(columns)) => findings.push(Finding::Good(format!("reads {}", columns.join(", ")))),
        Ok(None) => {}
        Err(error) => findings.push(Finding::Bad(error.to_string())),
    }
    let mut read = Vec::new();
    for (shape, value) in sample_rows() {
        let row = row(value);
        let columns: Vec<&str> = row.keys().map(String::as_str).collect();
        match format.try_rank(&columns) {
            Ok(None) => {}
            Ok(Some(rank)) => {
                read.push(format!("{shape} (rank {rank})"));
                push(findings, &format!("a row of {shape}"), convert(format, row));
            }
            Err(error) => findings.push(Finding::Bad(error.to_string())),
        }
    }
    findings.push(match read.is_empty() {
        true => Finding::Note(
            "recognises none of the usual shapes (messages, alpaca, sharegpt, query and response); try \
             it on its own data with `apus sft --dry_run`"
                .to_owned(),
        ),
        false => Finding::Good(format!("recognises {}", read.join(", "))),
    });
    push(findings, "rows of something else", unknown_shapes(format));
    Ok(())
}

/// A row of something else is an error or no sample, not a panic.
fn unknown_shapes(format: &dyn DatasetFormat) -> Result<String> {
    for unknown in [
        json!({}),
        json!({"": null}),
        json!({"messages": 3, "text": [1]}),
    ] {
        let text = unknown.to_string();
        if let Err(error) = format.convert(row(unknown)) {
            ensure!(!error.panicked(), "the row {text}: {error}");
        }
    }
    Ok("no panic".to_owned())
}

fn convert(format: &dyn DatasetFormat, row: Row) -> Result<String> {
    let samples = format
        .convert(row)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    for sample in &samples {
        match sample {
            Sample::Conversation(conversation) => ensure!(
                conversation.messages.iter().any(|m| m.role == "assistant"),
                "a conversation without assistant message trains nothing"
            ),
            Sample::Tokens(tokens) => ensure!(
                tokens.input_ids.len() == tokens.labels.len(),
                "{} tokens with {} labels",
                tokens.input_ids.len(),
                tokens.labels.len()
            ),
        }
    }
    Ok(format!("{} samples", samples.len()))
}
