//! A loss scale: numbers in an answer count more than the words around them.

use apus_sdk::{LossScale, Result, Segment, Turn};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct Numbers {
        /// Weight of digits; everything else has 1.
        weight: f64 = 2.0,
    }
}

apus_sdk::register! {
    /// Digits count more than other text.
    LossScale, "{{component}}", Numbers
}

impl LossScale for Numbers {
    fn segments(&self, text: &str, _turn: &Turn) -> Result<Vec<Segment>> {
        let mut segments: Vec<Segment> = Vec::new();
        for c in text.chars() {
            let weight = if c.is_ascii_digit() { self.weight } else { 1.0 };
            match segments.last_mut() {
                Some(last) if last.weight == weight => last.text.push(c),
                _ => segments.push(Segment::new(c, weight)),
            }
        }
        Ok(segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{make, segments};

    #[test]
    fn numbers_count_more() {
        let scale = make::<dyn LossScale>("{{component}}", json!({"weight": 3})).unwrap();
        let found = segments(scale.as_ref(), "6 times 7 is 42.").unwrap();
        let expected = [
            ("6", 3.0),
            (" times ", 1.0),
            ("7", 3.0),
            (" is ", 1.0),
            ("42", 3.0),
            (".", 1.0),
        ];
        let expected = expected.map(|(text, weight)| (text.to_owned(), weight));
        assert_eq!(found, expected);
    }
}
