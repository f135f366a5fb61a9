//! chrF (Popovic, 2015, <https://aclanthology.org/W15-3049>), as sacrebleu computes it over a corpus: how many n-grams
//! of characters answers and references share.

use apus_sdk::{Metric, Result, TextPair, register};
use std::collections::HashMap;

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

/// N-grams of one length.
#[derive(Clone, Copy, Default)]
struct Counts {
    said: usize,
    right: usize,
    shared: usize,
}

impl Metric for Chrf {
    fn reads_answers(&self) -> bool {
        true
    }

    fn update_answers(&mut self, pairs: &[TextPair]) -> Result<()> {
        self.counts.resize(self.order, Counts::default());
        for pair in pairs {
            let (reference, answer) = (characters(pair.reference), characters(pair.answer));
            for (n, counts) in (1..).zip(&mut self.counts) {
                let right = ngrams(&reference, n);
                // As sacrebleu: n-grams that are longer than the reference are no mistakes.
                if right.is_empty() {
                    continue;
                }
                for (ngram, times) in ngrams(&answer, n) {
                    counts.said += times;
                    counts.shared += times.min(right.get(ngram).copied().unwrap_or(0));
                }
                counts.right += right.values().sum::<usize>();
            }
        }
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        let mut counts = std::mem::take(&mut self.counts);
        counts.retain(|counts| counts.said > 0 && counts.right > 0);
        let mean = |share: fn(&Counts) -> f64| {
            counts.iter().map(share).sum::<f64>() / counts.len().max(1) as f64
        };
        let precision = mean(|counts| counts.shared as f64 / counts.said as f64);
        let recall = mean(|counts| counts.shared as f64 / counts.right as f64);
        let factor = self.beta * self.beta;
        let f = match factor * precision + recall {
            0.0 => 0.0,
            sum => (1.0 + factor) * precision * recall / sum,
        };
        Ok(vec![("chrf".to_owned(), 100.0 * f)])
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(vec!["chrf".to_owned()])
    }
}

register! {
    /// Character n-gram F-score of generated answers over the whole dataset, 0 to 100: sacrebleu's chrF2.
    Metric, "chrf", Chrf
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
    use crate::metrics::goldens;
    use apus_sdk::testing::measure_answers;

    #[test]
    fn scores_are_those_of_sacrebleu() {
        let rows = goldens::rows();
        for row in &rows {
            let pair = [(row.reference.as_str(), row.answer.as_str())];
            let found = measure_answers(&mut Chrf::default(), &pair).unwrap();
            row.check("chrf", found[0].1);
        }
        let pairs: Vec<_> = rows
            .iter()
            .map(|row| (row.reference.as_str(), row.answer.as_str()))
            .collect();
        let means = goldens::means();
        let short = Chrf {
            order: 4,
            beta: 1.0,
            ..Chrf::default()
        };
        for (mut metric, name) in [(Chrf::default(), "corpus chrf"), (short, "corpus chrf 4 1")] {
            for _ in 0..2 {
                let found = measure_answers(&mut metric, &pairs).unwrap()[0].1;
                assert!((found - means[name]).abs() < 1e-9, "{name} {found}");
            }
        }
    }

    #[test]
    fn nothing_at_all_is_0() {
        assert_eq!(
            measure_answers(&mut Chrf::default(), &[]).unwrap()[0].1,
            0.0
        );
    }
}
