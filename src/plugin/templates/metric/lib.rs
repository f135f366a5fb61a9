//! A metric: the share of sequences of which every token, or nearly every one, is predicted right.

use apus_sdk::{EvalBatch, Metric, Result};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct WholeSequences {
        /// Wrong tokens that a sequence may have and still count as right.
        mistakes: usize = 0,
    }
    state {
        right: u64,
        all: u64,
    }
}

apus_sdk::register! {
    /// Share of sequences that are predicted wholly right.
    Metric, "{{component}}", WholeSequences
}

impl Metric for WholeSequences {
    fn update(&mut self, batch: &EvalBatch) -> Result<()> {
        for (labels, predictions) in batch.sequences() {
            let wrong = labels.iter().zip(predictions).filter(|(a, b)| a != b);
            self.right += u64::from(wrong.count() <= self.mistakes);
            self.all += 1;
        }
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        let share = self.right as f64 / self.all.max(1) as f64;
        (self.right, self.all) = (0, 0);
        Ok(vec![("{{component}}".to_owned(), share)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{make, measure};

    /// The share with so many mistakes allowed.
    fn share(mistakes: usize) -> f64 {
        let options = json!({"mistakes": mistakes});
        let mut metric = make::<dyn Metric>("{{component}}", options).unwrap();
        let answers = [("yes", "yes"), ("no", "no"), ("maybe", "mayby"), ("a", "b")];
        let found = measure(metric.as_mut(), &answers).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "{{component}}");
        found[0].1
    }

    #[test]
    fn whole_sequences_count() {
        assert_eq!(share(0), 0.5);
    }

    #[test]
    fn mistakes_may_be_allowed() {
        assert_eq!(share(1), 1.0);
    }
}
