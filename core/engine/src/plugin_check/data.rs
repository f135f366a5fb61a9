//! Dataset formats, loss scales, metrics.

use super::{Finding, Findings, push};
use anyhow::{Result, ensure};
use apus_components::registry::Named;
use apus_sdk::{
    Base, DatasetFormat, Decoder, EvalBatch, Field, LossScale, Metric, Row, Sample, Turn,
};
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

pub(super) fn format(format: &Named<dyn DatasetFormat>, findings: &mut Findings) {
    let format = format.component.as_ref();
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
    push(findings, "rows of something else", strangers(format));
}

/// A row of something else is an error or no sample, not a panic.
fn strangers(format: &dyn DatasetFormat) -> Result<String> {
    for strange in [
        json!({}),
        json!({"": null}),
        json!({"messages": 3, "text": [1]}),
    ] {
        let text = strange.to_string();
        if let Err(error) = format.convert(row(strange)) {
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

/// Texts with what loss scales look for.
const TEXTS: [&str; 8] = [
    "",
    "Plain text.",
    "I'm sorry, but I can't help with that.",
    "<think>\n\n</think>\n\nhi",
    "Thought: t\nAction: a\nAction Input: {}\nObservation: o\nFinal Answer: z",
    "Look:\n```rust\nfn main() {}\n```\nDone.",
    "pre<tool_call>\n{\"a\":1}\n</tool_call>mid",
    "Ünïcödé 喵 \u{1f431}\u{200d}\u{1f4bb} and a very long tail ... ... ...",
];

pub(super) fn loss_scale(scale: &Named<dyn LossScale>, findings: &mut Findings) {
    let scale = scale.component.as_ref();
    match scale.try_base() {
        Ok(Some(base)) => {
            let base = match base {
                Base::Default => "every assistant turn",
                Base::LastRound => "the last round",
                Base::All => "everything",
            };
            findings.push(Finding::Good(format!("a base strategy: trains {base}")));
        }
        Ok(None) => {}
        Err(error) => findings.push(Finding::Bad(error.to_string())),
    }
    let mut weights: Vec<f64> = Vec::new();
    for text in TEXTS {
        for (field, query) in [(Field::Content, Some("What?")), (Field::Thinking, None)] {
            let turn = Turn {
                role: "assistant",
                field,
                query,
                is_last: true,
            };
            match apus_data::chat::scale::segments(scale, text, &turn) {
                Ok(segments) => weights.extend(segments.iter().map(|segment| segment.weight)),
                Err(error) => findings.push(Finding::Bad(format!("{text:?}: {error:#}"))),
            }
        }
    }
    weights.sort_by(f64::total_cmp);
    weights.dedup();
    let list: Vec<String> = weights.iter().map(f64::to_string).collect();
    findings.push(Finding::Good(format!(
        "segments join back to {} texts; weights seen, all honoured as they are: {}",
        2 * TEXTS.len(),
        list.join(", ")
    )));
    if weights == [1.0] && !matches!(scale.try_base(), Ok(Some(_))) {
        let note = "none of the sample texts gets another weight than 1; a run says so if no text of its \
                    data does";
        findings.push(Finding::Note(note.to_owned()));
    }
}

/// Tokens are characters.
struct Characters;

impl Decoder for Characters {
    fn decode(&self, tokens: &[u32]) -> apus_sdk::Result<String> {
        Ok(tokens
            .iter()
            .filter_map(|&token| char::from_u32(token))
            .collect())
    }
}

pub(super) fn metric(mut metric: Named<dyn Metric>, findings: &mut Findings) {
    let tokens = |text: &str| text.chars().map(u32::from).collect::<Vec<u32>>();
    let right = tokens("the cat sat on the mat");
    let wrong = tokens("the cow sat in the sun");
    let lengths = [11, right.len() - 11];
    let (weights, losses) = (vec![1.0; right.len()], vec![0.5; right.len()]);
    let mut values = |predictions: &[u32]| -> Result<Vec<(String, f64)>> {
        for _ in 0..2 {
            let updated = metric.component.update(&EvalBatch {
                labels: &right,
                predictions,
                weights: &weights,
                losses: &losses,
                lengths: &lengths,
                decoder: &Characters,
            });
            updated.map_err(|error| anyhow::anyhow!("{error}"))?;
        }
        let computed = metric.component.compute();
        let computed = computed.map_err(|error| anyhow::anyhow!("{error}"))?;
        ensure!(!computed.is_empty(), "no value at all");
        for (name, value) in &computed {
            ensure!(
                value.is_finite(),
                "{name} is {value}, expected a finite number"
            );
        }
        Ok(computed)
    };
    let shown = |values: &[(String, f64)]| {
        let pairs = values
            .iter()
            .map(|(name, value)| format!("{name} {value:.4}"));
        pairs.collect::<Vec<_>>().join(", ")
    };
    let good = values(&right);
    push(
        findings,
        "all tokens right",
        good.as_ref().map(|v| shown(v)).map_err(copy),
    );
    let bad = values(&wrong);
    push(
        findings,
        "some tokens wrong",
        bad.as_ref().map(|v| shown(v)).map_err(copy),
    );
    if let (Ok(good), Ok(again)) = (good, values(&right)) {
        let same = good == again;
        findings.push(match same {
            true => Finding::Good("starts afresh after compute".to_owned()),
            false => Finding::Bad(format!(
                "does not start afresh after compute: {} first, {} the second time",
                shown(&good),
                shown(&again)
            )),
        });
    }
}

fn copy(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}
