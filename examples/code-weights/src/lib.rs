//! A loss scale for a model that should write code and not apologise.
//!
//! An answer that begins with an apology is not trained; fenced code blocks count more than the prose
//! around them.

use apus_sdk::{Field, LossScale, Result, Segment, Turn};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct CodeWeights {
        /// Weight of fenced code blocks, fences included.
        code: f64 = 2.0,
    }
}

apus_sdk::register! {
    /// Does not train answers that begin with an apology; fenced code blocks count `code` times.
    LossScale, "code_weights", CodeWeights
}

const APOLOGIES: [&str; 5] = [
    "sorry",
    "i'm sorry",
    "i am sorry",
    "i apologi",
    "my apologies",
];

impl LossScale for CodeWeights {
    fn segments(&self, text: &str, turn: &Turn) -> Result<Vec<Segment>> {
        let answer = turn.role == "assistant" && turn.field == Field::Content;
        if answer && apologises(text) {
            return Ok(vec![Segment::new(text, 0.0)]);
        }
        let mut segments: Vec<Segment> = Vec::new();
        let mut inside = false;
        for line in text.split_inclusive('\n') {
            let fence = line.trim_start().starts_with("```");
            let weight = if inside || fence { self.code } else { 1.0 };
            match segments.last_mut() {
                Some(last) if last.weight == weight => last.text += line,
                _ => segments.push(Segment::new(line, weight)),
            }
            inside ^= fence;
        }
        Ok(segments)
    }
}

fn apologises(text: &str) -> bool {
    let start = text.trim_start().to_lowercase().replace('\u{2019}', "'");
    APOLOGIES.iter().any(|apology| start.starts_with(apology))
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::segments;

    fn weighed(text: &str) -> Vec<(String, f64)> {
        segments(&CodeWeights::default(), text).unwrap()
    }

    #[test]
    fn apologies_are_not_trained() {
        for text in [
            "I\u{2019}m sorry, but no.",
            " Sorry. ```\nx\n```",
            "I apologise",
        ] {
            assert_eq!(weighed(text), [(text.to_owned(), 0.0)]);
        }
        let text = "No need to say I'm sorry.";
        assert_eq!(weighed(text), [(text.to_owned(), 1.0)]);
    }

    #[test]
    fn fenced_code_counts_double() {
        let parts = [
            ("Look:\n", 1.0),
            ("```rust\nfn f() {}\n\n```\n", 2.0),
            ("and `this`:\n\n", 1.0),
            ("  ```\nnever closed", 2.0),
        ];
        let text: String = parts.iter().map(|(text, _)| *text).collect();
        let expected = parts.map(|(text, weight)| (text.to_owned(), weight));
        assert_eq!(weighed(&text), expected);
    }
}
