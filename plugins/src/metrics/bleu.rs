//! BLEU-4 as ms-swift has it: nltk's `sentence_bleu` with smoothing method 3 over words of jieba, the mean over all
//! rows, 0 to 100.

use super::rouge::Means;
use super::words::words;
use apus_sdk::{Metric, Result, TextPair, register};
use std::collections::HashMap;

/// The name of what is reported.
pub const NAME: &str = "bleu-4";

apus_sdk::options! {
    struct Bleu {}
    state {
        means: Means<1>,
    }
}

impl Metric for Bleu {
    fn reads_answers(&self) -> bool {
        true
    }

    fn update_answers(&mut self, pairs: &[TextPair]) -> Result<()> {
        for pair in pairs {
            let (reference, answer) = (words(pair.reference), words(pair.answer));
            if !reference.is_empty() {
                self.means.add([score(&reference, &answer)]);
            }
        }
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        let [mean] = self.means.take();
        Ok(vec![(NAME.to_owned(), mean)])
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(vec![NAME.to_owned()])
    }
}

register! {
    /// BLEU-4 of generated answers, row by row with nltk's smoothing method 3, in words of jieba, 0 to 100, as ms-swift's nlg; an answer without a word counts 0.
    Metric, "bleu", Bleu
}

/// The score of a row, 0 to 100.
pub fn score(reference: &[&str], answer: &[&str]) -> f64 {
    let mut logarithms = 0.0;
    let mut missing = 0;
    for n in 1..=4 {
        let (right, said) = (counts(reference, n), counts(answer, n));
        let shared: usize = said
            .iter()
            .map(|(ngram, &times)| times.min(right.get(ngram).copied().unwrap_or(0)))
            .sum();
        let all = said.values().sum::<usize>().max(1);
        if shared == 0 {
            if n == 1 {
                return 0.0;
            }
            missing += 1;
        }
        // The NIST rule: the k-th order without a match counts 1 / 2^k of a match.
        let matches = match shared {
            0 => 0.5f64.powi(missing),
            shared => shared as f64,
        };
        logarithms += (matches / all as f64).ln() / 4.0;
    }
    let brevity = match answer.len() > reference.len() {
        true => 1.0,
        false => (1.0 - reference.len() as f64 / answer.len() as f64).exp(),
    };
    100.0 * brevity * logarithms.exp()
}

/// How often each n-gram occurs.
fn counts<'a, 'b>(words: &'a [&'b str], n: usize) -> HashMap<&'a [&'b str], usize> {
    let mut found = HashMap::new();
    for ngram in words.windows(n) {
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
    fn scores_are_those_of_nltk() {
        for row in goldens::rows() {
            row.check(NAME, score(&words(&row.reference), &words(&row.answer)));
        }
    }

    #[test]
    fn an_answer_without_words_counts() {
        let pairs = [("a b c d", "a b c d"), ("a", ""), ("", "a")];
        let found = measure_answers(&mut Bleu::default(), &pairs).unwrap();
        assert_eq!(found, [("bleu-4".to_owned(), 50.0)]);
    }
}
