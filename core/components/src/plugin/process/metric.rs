//! A metric in a process: of generated answers, or of tokens.

use super::Remote;
use apus_sdk::{EvalBatch, Metric, Result, Run, Setup, TextPair};
use serde::Deserialize;
use serde_json::{Value, json};

struct ProcessMetric {
    remote: Remote,
    facts: Facts,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Facts {
    /// Whether it reads generated answers.
    answers: bool,
    names: Option<Vec<String>>,
}

pub(super) fn new(remote: Remote) -> Result<Box<dyn Metric>> {
    let facts = remote.facts()?;
    Ok(Box::new(ProcessMetric { remote, facts }))
}

impl Metric for ProcessMetric {
    fn check(&self, setup: &Setup) -> Result<()> {
        self.remote.check(setup)
    }

    fn begin(&mut self, run: &Run) -> Result<()> {
        self.remote.begin(run)
    }

    fn update(&mut self, batch: &EvalBatch) -> Result<()> {
        let sequences = batch.sequences().map(|(labels, predictions)| {
            Ok(json!({
                "labels": labels, "predictions": predictions,
                "reference": batch.decode(labels)?, "predicted": batch.decode(predictions)?,
            }))
        });
        let sequences: Vec<Value> = sequences.collect::<Result<_>>()?;
        self.remote.call(
            "update",
            json!({"sequences": sequences, "weights": batch.weights, "losses": batch.losses}),
        )
    }

    fn reads_answers(&self) -> bool {
        self.facts.answers
    }

    fn update_answers(&mut self, pairs: &[TextPair]) -> Result<()> {
        let pairs: Vec<Value> = pairs
            .iter()
            .map(|pair| json!({"reference": pair.reference, "answer": pair.answer}))
            .collect();
        self.remote.call("update_answers", json!({"pairs": pairs}))
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        let values: serde_json::Map<String, Value> = self.remote.call("compute", json!({}))?;
        let number = |(name, value): (String, Value)| {
            let number = value.as_f64().ok_or_else(|| {
                format!(
                    "{}: {name:?} is {value}, no number",
                    self.remote.what("compute")
                )
            })?;
            Ok((name, number))
        };
        values.into_iter().map(number).collect()
    }

    fn names(&self) -> Option<Vec<String>> {
        self.facts.names.clone()
    }
}
