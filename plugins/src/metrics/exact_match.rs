//! Share of generated answers that are right to the letter: ms-swift's `acc` of `swift infer`.

use apus_sdk::{Metric, Result, TextPair, register};

apus_sdk::options! {
    struct ExactMatch {
        /// Leave white space at the beginning and the end of both texts out.
        trim: bool = false,
        /// Take capitals and small letters for the same.
        ignore_case: bool = false,
    }
    state {
        right: u64,
        all: u64,
    }
}

impl ExactMatch {
    fn is_right(&self, pair: &TextPair) -> bool {
        let [reference, answer] = [pair.reference, pair.answer].map(|text| match self.trim {
            true => text.trim(),
            false => text,
        });
        match self.ignore_case {
            true => reference.to_lowercase() == answer.to_lowercase(),
            false => reference == answer,
        }
    }
}

impl Metric for ExactMatch {
    fn reads_answers(&self) -> bool {
        true
    }

    fn update_answers(&mut self, pairs: &[TextPair]) -> Result<()> {
        self.right += pairs.iter().filter(|pair| self.is_right(pair)).count() as u64;
        self.all += pairs.len() as u64;
        Ok(())
    }

    fn compute(&mut self) -> Result<Vec<(String, f64)>> {
        let share = self.right as f64 / self.all.max(1) as f64;
        (self.right, self.all) = (0, 0);
        Ok(vec![("exact_match".to_owned(), share)])
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(vec!["exact_match".to_owned()])
    }
}

register! {
    /// Share of generated answers that equal the dataset's, 0 to 1: ms-swift's acc of swift infer.
    Metric, "exact_match", ExactMatch
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::{make, measure_answers};
    use serde_json::{Value, json};

    fn share(options: Value) -> f64 {
        let mut metric = make::<dyn Metric>("exact_match", options).unwrap();
        let pairs = [
            ("Paris", "Paris"),
            ("Paris", "paris"),
            ("Paris", " Paris\n"),
            ("", ""),
        ];
        let first = measure_answers(&mut *metric, &pairs).unwrap();
        assert_eq!(measure_answers(&mut *metric, &pairs).unwrap(), first);
        first[0].1
    }

    #[test]
    fn letters_count_unless_they_are_told_not_to() {
        assert_eq!(share(json!({})), 0.5);
        assert_eq!(share(json!({"trim": true})), 0.75);
        assert_eq!(share(json!({"trim": true, "ignore_case": true})), 1.0);
    }
}
