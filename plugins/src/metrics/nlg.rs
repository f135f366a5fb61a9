//! What ms-swift computes of generated answers under the name `nlg`, its metric with `predict_with_generate`: ROUGE and
//! BLEU in one component, so that a command line of ms-swift's goes on.

use super::bleu;
use super::rouge::{self, Means};
use super::words::words;
use apus_sdk::{Metric, Result, TextPair, register};

apus_sdk::options! {
    struct Nlg {}
    state {
        means: Means<4>,
    }
}

fn names() -> [&'static str; 4] {
    let [one, two, l] = rouge::NAMES;
    [one, two, l, bleu::NAME]
}

impl Metric for Nlg {
    fn reads_answers(&self) -> bool {
        true
    }

    fn update_answers(&mut self, pairs: &[TextPair]) -> Result<()> {
        for pair in pairs {
            let (reference, answer) = (words(pair.reference), words(pair.answer));
            if !reference.is_empty() {
                let [one, two, l] = rouge::scores(&reference, &answer);
                self.means
                    .add([one, two, l, bleu::score(&reference, &answer)]);
            }
        }
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        let values = names().into_iter().zip(self.means.take());
        Ok(values
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(names().map(str::to_owned).to_vec())
    }
}

register! {
    /// The metrics rouge and bleu in one, by ms-swift's name.
    Metric, "nlg", Nlg
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::goldens;
    use apus_sdk::testing::measure_answers;

    /// ms-swift leaves rows out in which either text is empty; the goldens' means are over the others.
    #[test]
    fn means_are_those_of_ms_swift() {
        let rows = goldens::rows();
        let pairs = rows
            .iter()
            .filter(|row| row.values.contains_key(bleu::NAME));
        let pairs: Vec<_> = pairs
            .map(|row| (row.reference.as_str(), row.answer.as_str()))
            .collect();
        let found = measure_answers(&mut Nlg::default(), &pairs).unwrap();
        let expected = goldens::means();
        for (name, value) in found {
            assert!((value - expected[&name]).abs() < 1e-6, "{name} {value}");
        }
    }
}
