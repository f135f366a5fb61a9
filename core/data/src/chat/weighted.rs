//! A text with a weight for each of its bytes, and for the tokens around it; a message whose texts have weights.

use apus_sdk::{Message, Segment};
use serde_json::Value;
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

/// The weighted texts of one message.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parts {
    /// The reasoning.
    pub thinking: Option<Weighted>,
    /// The content; for a tool's result, its JSON text.
    pub content: Option<Weighted>,
    /// Whether a renderer may write the content as reasoning, which is left out of earlier turns.
    pub content_may_be_reasoning: bool,
    /// The arguments of each call, as JSON text.
    pub calls: Vec<Weighted>,
}

/// A message of a conversation with its weighted texts.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedMessage {
    /// Its number in the dataset (from 1), for messages.
    pub number: usize,
    /// The message.
    pub message: Message,
    /// Its texts.
    pub parts: Parts,
}

impl WeightedMessage {
    /// Whether the content is there and not empty.
    pub fn has_content(&self) -> bool {
        is_filled(&self.parts.content)
    }

    /// Whether reasoning is there and not empty.
    pub fn has_thinking(&self) -> bool {
        is_filled(&self.parts.thinking)
    }

    /// Appends the content of the next message; an empty one changes neither text nor weights.
    pub fn append_content(&mut self, next: &Self) {
        let Some(text) = &next.parts.content else {
            return;
        };
        match &mut self.parts.content {
            Some(content) if text.text.is_empty() && !content.text.is_empty() => return,
            Some(content) if !content.text.is_empty() => content.append(text.clone()),
            content => {
                *content = Some(text.clone());
                self.message.channel.clone_from(&next.message.channel);
            }
        }
        let text = self.parts.content.as_ref().map(|c| c.text.as_str());
        self.message.content = text.map_or(Value::Null, Value::from);
    }
}

fn is_filled(part: &Option<Weighted>) -> bool {
    part.as_ref().is_some_and(|part| !part.text.is_empty())
}
