//! A text with a weight for each of its bytes, and for the tokens around it.

use apus_sdk::Segment;
use std::ops::Range;

/// A text with a weight for each byte.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weighted {
    /// The text.
    pub text: String,
    /// A weight for each byte of it.
    pub weights: Vec<f32>,
    /// The weight of the header before it: that of the first trained byte, or 0 if nothing is trained.
    pub open: f32,
    /// The weight of the token that ends it: that of the last trained byte, or 0 if nothing is trained.
    pub close: f32,
}

impl Weighted {
    /// Gives all bytes of a text one weight.
    pub fn uniform(text: &str, weight: f32) -> Self {
        Self {
            text: text.to_owned(),
            weights: vec![weight; text.len()],
            open: weight,
            close: weight,
        }
    }

    /// Gives a text the weights of segments that join back to it.
    pub fn from_segments(text: &str, segments: &[Segment]) -> Self {
        let mut weights = Vec::with_capacity(text.len());
        for segment in segments {
            weights.resize(weights.len() + segment.text.len(), segment.weight as f32);
        }
        // An empty text has the weight of an empty segment, if the scales gave one.
        let empty = segments
            .first()
            .map_or(1.0, |segment| segment.weight as f32);
        Self::new(text.to_owned(), weights, empty)
    }

    fn new(text: String, weights: Vec<f32>, if_empty: f32) -> Self {
        let trained = |weight: &&f32| **weight > 0.0;
        let (open, close) = match weights.as_slice() {
            [] => (if_empty, if_empty),
            all => (
                all.iter().find(trained).copied().unwrap_or(0.0),
                all.iter().rfind(trained).copied().unwrap_or(0.0),
            ),
        };
        Self {
            text,
            weights,
            open,
            close,
        }
    }

    /// A part of it.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let before = range.start.checked_sub(1).and_then(|i| self.weights.get(i));
        let if_empty = before.copied().unwrap_or(self.open);
        let weights = self.weights[range.clone()].to_vec();
        Self::new(self.text[range].to_owned(), weights, if_empty)
    }

    /// Appends another text: the header is that of the first, the end that of the second.
    pub fn append(&mut self, next: Self) {
        self.text.push_str(&next.text);
        self.weights.extend(next.weights);
        self.close = next.close;
    }

    /// Whether anything of it is trained.
    pub fn is_trained(&self) -> bool {
        self.open > 0.0 || self.close > 0.0 || self.weights.iter().any(|weight| *weight > 0.0)
    }
}
