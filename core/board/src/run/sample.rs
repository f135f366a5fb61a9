//! `samples.jsonl`: answers that the model gave during training.

use super::log::object;
use serde::Serialize;
use serde_json::Value;

/// The most samples that are kept.
const MOST: usize = 10_000;

/// A sample generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// The step after which it was generated.
    pub step: u64,
    /// The prompt.
    pub prompt: String,
    /// The answer.
    pub answer: String,
}

/// Adds a line. Returns false if it is not a sample.
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
