//! An answer as it is generated: which of its text is reasoning, which is for the user, and which calls a tool.

use super::Dialect;
use crate::chat::rendered::{Rendered, RenderedPiece};
use serde_json::Value;

/// A message that a model writes within its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerPart {
    /// Reasoning, which is not part of the answer.
    Reasoning,
    /// Words to the user on the way to a call or an answer.
    Preamble,
    /// The answer.
    Content,
    /// The arguments of a call of the tool of this name.
    Call(String),
}

/// What the next piece of an answer brings. Texts belong to the part that was opened last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerDelta {
    /// A part begins.
    Opened(AnswerPart),
    /// Text of the part.
    Text(String),
    /// The part has ended, because the model ended it.
    Closed,
}

/// Reads an answer piece by piece. Whatever a model writes can be read.
pub trait AnswerReader: Send {
    /// Reads text: never a control token, whatever it looks like.
    fn text(&mut self, text: &str) -> Vec<AnswerDelta>;

    /// Reads a control token.
    fn control(&mut self, token: &str) -> Vec<AnswerDelta>;

    /// Reads the end of the answer.
    fn end(&mut self) -> Vec<AnswerDelta>;
}

impl dyn Dialect {
    /// All that a [`reader`](Dialect::reader) tells of an answer that is there as a whole.
    pub fn read(&self, answer: &Rendered) -> Vec<AnswerDelta> {
        let mut reader = self.reader();
        let pieces = answer.pieces();
        let mut deltas: Vec<AnswerDelta> = pieces
            .flat_map(|piece| match piece {
                RenderedPiece::Text(text) => reader.text(text),
                RenderedPiece::Control(token) => reader.control(token),
            })
            .collect();
        deltas.extend(reader.end());
        deltas
    }
}

/// What an answer has to look like: constrained decoding holds a model to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AnswerShape {
    /// The JSON schema of the answer; without one it is any text.
    pub schema: Option<Value>,
    /// The tools that may be called, each with the JSON schema of its arguments.
    pub calls: Vec<(String, Value)>,
    /// Whether the answer is a call in any case.
    pub must_call: bool,
}
