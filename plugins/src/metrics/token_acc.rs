//! Share of supervised tokens that the model would have chosen itself.

use apus_sdk::{EvalBatch, Metric, Result, register};

apus_sdk::options! {
    struct TokenAcc {}
    state {
        right: u64,
        all: u64,
    }
}

impl Metric for TokenAcc {
    fn update(&mut self, batch: &EvalBatch) -> Result<()> {
        let hits = batch
            .labels
            .iter()
            .zip(batch.predictions)
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

    fn names(&self) -> Option<Vec<String>> {
        Some(vec!["token_acc".to_owned()])
    }
}

register! {
    /// Share of supervised tokens whose most probable prediction is right, whatever their weight.
    Metric, "token_acc", TokenAcc
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::Decoder;

    struct NoText;

    impl Decoder for NoText {
        fn decode(&self, _tokens: &[u32]) -> Result<String> {
            Ok(String::new())
        }
    }

    fn update(metric: &mut TokenAcc, labels: &[u32], predictions: &[u32]) {
        let batch = EvalBatch {
            labels,
            predictions,
            weights: &vec![1.0; labels.len()],
            losses: &vec![0.0; labels.len()],
            lengths: &[labels.len()],
            decoder: &NoText,
        };
        metric.update(&batch).unwrap();
    }

    #[test]
    fn counts_over_batches_and_starts_afresh() {
        let mut metric = TokenAcc::default();
        update(&mut metric, &[1, 2, 3], &[1, 0, 3]);
        update(&mut metric, &[4], &[5]);
        assert_eq!(metric.compute().unwrap(), [("token_acc".to_owned(), 0.5)]);
        update(&mut metric, &[4], &[4]);
        assert_eq!(metric.compute().unwrap(), [("token_acc".to_owned(), 1.0)]);
    }
}
