//! The numbers of one model on one dataset.

use super::row_losses::{Mean, RowLoss};
use crate::generate::{Counts, Reference, measure};
use anyhow::Result;
use apus_components::registry::Named;
use apus_sdk::{Metric, TextPair};
use serde_json::{Map, Value};

/// Numbers of an evaluation that say how fast it was.
const OF_SPEED: [&str; 3] = ["runtime", "samples_per_second", "steps_per_second"];

/// The numbers of one model on one dataset.
pub struct Numbers {
    /// `loss`, and each metric by its name.
    pub values: Map<String, Value>,
    /// How long the losses took, by the names of a run's log.
    pub speed: Map<String, Value>,
    /// The losses of rows, in the order of the dataset.
    pub rows: Vec<RowLoss>,
    /// Whether the loss is a cross entropy.
    is_cross_entropy: bool,
    /// Answers to the rows that have a reference; empty if none were asked for.
    pub answers: Vec<String>,
    /// How many tokens they have.
    pub generated: Option<Counts>,
}

impl Numbers {
    /// Takes the numbers of an evaluation.
    pub fn new(evaluated: Map<String, Value>, rows: Vec<RowLoss>, is_cross_entropy: bool) -> Self {
        let named = evaluated.into_iter().map(|(name, value)| {
            let name = name.strip_prefix("eval_").unwrap_or(&name).to_owned();
            (name, value)
        });
        let (speed, values) = named.partition(|(name, _)| OF_SPEED.contains(&name.as_str()));
        Self {
            values,
            speed,
            rows,
            is_cross_entropy,
            answers: Vec::new(),
            generated: None,
        }
    }

    /// The loss as a run logs it.
    pub fn loss(&self) -> f64 {
        self.values
            .get("loss")
            .and_then(Value::as_f64)
            .unwrap_or(f64::NAN)
    }

    /// The mean loss of trained tokens with its error.
    pub fn mean(&self) -> Mean {
        Mean::of(self.rows.iter().map(|row| (row.sum, row.tokens)))
    }

    /// The exponential of the mean cross entropy, whatever the weights.
    pub fn perplexity(&self) -> Option<f64> {
        let mean = Mean::of(self.rows.iter().map(|row| (row.unweighted, row.tokens)));
        self.is_cross_entropy.then(|| mean.mean.exp())
    }

    /// Trained tokens.
    pub fn tokens(&self) -> usize {
        self.rows.iter().map(|row| row.tokens).sum()
    }

    /// Each metric by its name, without the loss.
    pub fn metrics(&self) -> impl Iterator<Item = (&str, f64)> {
        let values = self.values.iter().filter(|(name, _)| *name != "loss");
        values.filter_map(|(name, value)| Some((name.as_str(), value.as_f64()?)))
    }

    /// Has metrics read the answers.
    ///
    /// # Errors
    /// A metric failed.
    pub fn measure_answers(
        &mut self,
        references: &[Reference],
        metrics: &mut [Named<dyn Metric>],
    ) -> Result<()> {
        let pairs = references.iter().zip(&self.answers);
        let pairs: Vec<TextPair> = pairs
            .map(|(row, answer)| TextPair {
                reference: &row.answer,
                answer,
            })
            .collect();
        for (name, value) in measure(metrics, &pairs)? {
            self.values.insert(name, value.into());
        }
        Ok(())
    }
}
