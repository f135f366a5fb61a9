//! `samples.jsonl`: what the model answered on the way.

use super::log::object;
use serde::Serialize;
use serde_json::Value;

/// More than anybody reads.
const MOST: usize = 10_000;

/// A sample generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// After which step.
    pub step: u64,
    /// What was asked.
    pub prompt: String,
    /// What the model answered.
    pub answer: String,
}

/// Takes in a line; false if it is no sample.
pub fn take(samples: &mut Vec<Sample>, line: &str) -> bool {
    let Some(mut values) = object(line) else {
        return false;
    };
    let mut text = |name: &str| match values.remove(name) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let (Some(prompt), Some(answer)) = (text("prompt"), text("answer")) else {
        return false;
    };
    let step = values.get("step").and_then(Value::as_u64).unwrap_or(0);
    if samples.len() < MOST {
        samples.push(Sample {
            step,
            prompt,
            answer,
        });
    }
    true
}
