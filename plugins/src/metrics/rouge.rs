//! ROUGE as ms-swift has it: F1 of the package `rouge` over words of jieba, the mean over all rows, 0 to 100.
//!
//! That package counts every n-gram once, and takes texts apart at full stops for ROUGE-L.

use super::words::words;
use apus_sdk::{Metric, Result, TextPair, register};
use std::collections::HashSet;

/// The names of what is reported.
pub const NAMES: [&str; 3] = ["rouge-1", "rouge-2", "rouge-l"];

apus_sdk::options! {
    struct Rouge {}
    state {
        means: Means<3>,
    }
}

/// Means over rows; 0 where there were none.
#[derive(Debug, Clone, Copy)]
pub struct Means<const N: usize> {
    sums: [f64; N],
    rows: u64,
}

impl<const N: usize> Default for Means<N> {
    fn default() -> Self {
        Self {
            sums: [0.0; N],
            rows: 0,
        }
    }
}

impl<const N: usize> Means<N> {
    /// Adds the values of a row.
    pub fn add(&mut self, values: [f64; N]) {
        self.rows += 1;
        for (sum, value) in self.sums.iter_mut().zip(values) {
            *sum += value;
        }
    }

    /// The means, and begins afresh.
    pub fn take(&mut self) -> [f64; N] {
        let Self { sums, rows } = std::mem::take(self);
        sums.map(|sum| sum / rows.max(1) as f64)
    }
}

impl Metric for Rouge {
    fn reads_answers(&self) -> bool {
        true
    }

    fn update_answers(&mut self, pairs: &[TextPair]) -> Result<()> {
        for pair in pairs {
            let (reference, answer) = (words(pair.reference), words(pair.answer));
            if !reference.is_empty() {
                self.means.add(scores(&reference, &answer));
            }
        }
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        let values = NAMES.iter().zip(self.means.take());
        Ok(values
            .map(|(name, value)| ((*name).to_owned(), value))
            .collect())
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(NAMES.map(str::to_owned).to_vec())
    }
}

register! {
    /// ROUGE-1, ROUGE-2 and ROUGE-L of generated answers, in words of jieba, 0 to 100, as ms-swift's nlg; an answer without a word counts 0.
    Metric, "rouge", Rouge
}

/// The scores of a row, 0 to 100; all are 0 for an answer without words.
pub fn scores(reference: &[&str], answer: &[&str]) -> [f64; 3] {
    let (reference, answer) = (reference.join(" "), answer.join(" "));
    let (reference, answer) = (sentences(&reference), sentences(&answer));
    let (all_right, all_said) = (reference.concat(), answer.concat());
    let of_n = |n: usize| {
        let (right, said) = (ngrams(&all_right, n), ngrams(&all_said, n));
        f1(right.intersection(&said).count(), right.len(), said.len())
    };
    let mut common = HashSet::new();
    for right in &reference {
        for said in &answer {
            common.extend(longest_common_subsequence(right, said));
        }
    }
    let different = |words: &[&str]| ngrams(words, 1).len();
    let of_l = f1(common.len(), different(&all_right), different(&all_said));
    [of_n(1), of_n(2), of_l].map(|score| 100.0 * score)
}

/// The words of each sentence. As in the package, the text between two full stops is a sentence of one empty word if it
/// is white space alone, and none if it is empty.
fn sentences(text: &str) -> Vec<Vec<&str>> {
    let parts = text.split('.').filter(|part| !part.is_empty());
    let words = parts.map(|part| part.split_whitespace().collect::<Vec<_>>());
    words
        .map(|words| if words.is_empty() { vec![""] } else { words })
        .collect()
}

fn ngrams<'a, 'b>(words: &'a [&'b str], n: usize) -> HashSet<&'a [&'b str]> {
    words.windows(n).collect()
}

/// F1 as the package rounds it.
fn f1(common: usize, right: usize, said: usize) -> f64 {
    let share = |of: usize| common as f64 / of.max(1) as f64;
    let (recall, precision) = (share(right), share(said));
    2.0 * (precision * recall / (precision + recall + 1e-8))
}

/// The words of one longest common subsequence, the one that the package finds.
fn longest_common_subsequence<'a>(right: &[&'a str], said: &[&str]) -> Vec<&'a str> {
    // Lengths of one row at a time, and for each pair of words whether the way back leads up.
    let mut lengths = vec![0u32; said.len() + 1];
    let mut goes_up = vec![false; right.len() * said.len()];
    for (i, word) in right.iter().enumerate() {
        let mut diagonal = 0;
        for (j, other) in said.iter().enumerate() {
            let up = lengths[j + 1];
            goes_up[i * said.len() + j] = up > lengths[j];
            lengths[j + 1] = match word == other {
                true => diagonal + 1,
                false => up.max(lengths[j]),
            };
            diagonal = up;
        }
    }
    let (mut i, mut j) = (right.len(), said.len());
    let mut found = Vec::new();
    while i > 0 && j > 0 {
        if right[i - 1] == said[j - 1] {
            found.push(right[i - 1]);
            (i, j) = (i - 1, j - 1);
        } else if goes_up[(i - 1) * said.len() + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::goldens;
    use apus_sdk::testing::measure_answers;

    #[test]
    fn scores_are_those_that_ms_swift_computes() {
        for row in goldens::rows() {
            let found = scores(&words(&row.reference), &words(&row.answer));
            for (name, value) in NAMES.iter().zip(found) {
                row.check(name, value);
            }
        }
    }

    #[test]
    fn an_answer_without_words_counts_and_a_row_without_a_reference_does_not() {
        let mut rouge = Rouge::default();
        let pairs = [
            ("a b", "a b"),
            ("a", ""),
            ("a", "..."),
            ("", "a"),
            (" ", ""),
        ];
        let found = measure_answers(&mut rouge, &pairs).unwrap();
        assert!((found[0].1 - 100.0 / 3.0).abs() < 1e-4, "{found:?}");
        assert_eq!(measure_answers(&mut rouge, &[]).unwrap()[2].1, 0.0);
    }
}
