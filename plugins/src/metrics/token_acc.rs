//! Share of supervised tokens that the model would have chosen itself.

use apus_sdk::{EvalBatch, Metric, Result, register};
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TokenAcc {
    #[serde(skip)]
    right: u64,
    #[serde(skip)]
    all: u64,
}

impl Metric for TokenAcc {
    fn update(&mut self, batch: &EvalBatch) -> Result<()> {
        let hits = batch
            .labels
            .iter()
            .zip(&batch.predictions)
            .filter(|(a, b)| a == b);
        self.right += hits.count() as u64;
        self.all += batch.labels.len() as u64;
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        let Self { right, all } = std::mem::take(self);
        Ok(vec![(
            "token_acc".to_owned(),
            right as f64 / all.max(1) as f64,
        )])
    }
}

register! {
    /// Share of supervised tokens whose most probable prediction is right, whatever their weight.
    Metric, "token_acc", TokenAcc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_over_batches_and_starts_afresh() {
        let mut metric = TokenAcc::default();
        let batch = |labels: &[u32], predictions: &[u32]| EvalBatch {
            labels: labels.to_vec(),
            predictions: predictions.to_vec(),
            ..Default::default()
        };
        metric.update(&batch(&[1, 2, 3], &[1, 0, 3])).unwrap();
        metric.update(&batch(&[4], &[5])).unwrap();
        assert_eq!(metric.compute().unwrap(), [("token_acc".to_owned(), 0.5)]);
        metric.update(&batch(&[4], &[4])).unwrap();
        assert_eq!(metric.compute().unwrap(), [("token_acc".to_owned(), 1.0)]);
    }
}
