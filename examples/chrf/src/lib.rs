//! chrF (Popovic, 2015, <https://aclanthology.org/W15-3049>), as sacrebleu computes it over a corpus:
//! how many n-grams of characters predictions and references share.
//!
//! Predictions are the most probable tokens given the right ones before them, as an evaluation has
//! them, so values are higher than those of freely generated texts, which the built-in metric `chrf`
//! reads, and cost nothing.

use apus_sdk::{EvalBatch, Metric, Result};
use std::collections::HashMap;

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Chrf {
        /// The longest n-grams.
        order: usize = 6,
        /// How much more recall counts than precision.
        beta: f64 = 2.0,
    }
    state {
        counts: Vec<Counts>,
    }
}

apus_sdk::register! {
    /// Character n-gram F-score of the most probable tokens, 0 to 100, as sacrebleu's chrF2.
    Metric, "forced_chrf", Chrf
}

/// N-grams of one length.
#[derive(Clone, Default)]
struct Counts {
    predicted: usize,
    right: usize,
    shared: usize,
}

impl Metric for Chrf {
    fn update(&mut self, batch: &EvalBatch) -> Result<()> {
        self.counts.resize(self.order, Counts::default());
        for (labels, predictions) in batch.sequences() {
            let reference = characters(&batch.decode(labels)?);
            let prediction = characters(&batch.decode(predictions)?);
            for (n, counts) in (1..).zip(&mut self.counts) {
                let right = ngrams(&reference, n);
                // As sacrebleu: n-grams longer than the reference are no mistakes.
                if right.is_empty() {
                    continue;
                }
                for (ngram, times) in ngrams(&prediction, n) {
                    counts.predicted += times;
                    counts.shared += times.min(right.get(ngram).copied().unwrap_or(0));
                }
                counts.right += right.values().sum::<usize>();
            }
        }
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        let mut counts = std::mem::take(&mut self.counts);
        counts.retain(|counts| counts.predicted > 0 && counts.right > 0);
        let mean = |share: fn(&Counts) -> f64| {
            counts.iter().map(share).sum::<f64>() / counts.len().max(1) as f64
        };
        let precision = mean(|counts| counts.shared as f64 / counts.predicted as f64);
        let recall = mean(|counts| counts.shared as f64 / counts.right as f64);
        let factor = self.beta * self.beta;
        let f = match factor * precision + recall {
            0.0 => 0.0,
            sum => (1.0 + factor) * precision * recall / sum,
        };
        Ok(vec![("forced_chrf".to_owned(), 100.0 * f)])
    }
}

fn characters(text: &str) -> Vec<char> {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// How often each n-gram occurs.
fn ngrams(text: &[char], n: usize) -> HashMap<&[char], usize> {
    let mut found = HashMap::new();
    for ngram in text.windows(n) {
        *found.entry(ngram).or_default() += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::measure;

    fn score(mut metric: Chrf, pairs: &[(&str, &str)]) -> f64 {
        let found = measure(&mut metric, pairs).unwrap();
        assert_eq!(found[0].0, "forced_chrf");
        found[0].1
    }

    #[test]
    fn scores_are_those_of_sacrebleu() {
        // sacrebleu 2.6.0: CHRF().corpus_score, pairs of reference and prediction.
        let fox = (
            "The quick brown fox jumps over the lazy dog.",
            "A quick brown dog jumps over the lazy fox.",
        );
        let cat = [("the cat sat on the mat", "the cat is on the mat")];
        let corpus = [
            fox,
            ("Grüße aus Köln", "Grüsse aus Koeln"),
            ("ja", "nein"),
            ("short", "sh"),
            ("", "x y"),
            ("z", ""),
        ];
        let short = Chrf {
            order: 4,
            beta: 1.0,
            ..Chrf::default()
        };
        for (found, expected) in [
            (score(Chrf::default(), &cat), 61.925_151_289_932_5),
            (score(Chrf::default(), &corpus), 58.550_049_581_121_58),
            (score(short, &[fox, ("ab", "abc d")]), 76.989_955_582_599_42),
            (score(Chrf::default(), &[("abc", "xyz")]), 0.0),
            (score(Chrf::default(), &[]), 0.0),
        ] {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
    }

    #[test]
    fn every_evaluation_starts_afresh() {
        let mut metric = Chrf::default();
        measure(&mut metric, &[("abc", "xyz")]).unwrap();
        assert_eq!(measure(&mut metric, &[("abc", "abc")]).unwrap()[0].1, 100.0);
    }
}
