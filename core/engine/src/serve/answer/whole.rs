//! An answer as a whole: its pieces put together.

use super::logprobs::TokenEntry;
use super::reading::Piece;

/// A call of a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// The name of the tool.
    pub name: String,
    /// The arguments, as the model wrote them.
    pub arguments: String,
}

/// What was read of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Whole {
    /// Its reasoning.
    pub reasoning: Option<String>,
    /// Its text.
    pub content: Option<String>,
    /// Log-probabilities of the tokens of its text.
    pub entries: Vec<TokenEntry>,
    /// Its calls.
    pub calls: Vec<Call>,
}

impl Whole {
    /// Adds what a token added.
    pub fn add(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            match piece {
                Piece::Reasoning(text) => self.reasoning.get_or_insert_default().push_str(&text),
                Piece::Content(text, entries) => {
                    self.content.get_or_insert_default().push_str(&text);
                    self.entries.extend(entries);
                }
                Piece::Call(name) => self.calls.push(Call {
                    name,
                    ..Call::default()
                }),
                Piece::Arguments(text) => {
                    if let Some(call) = self.calls.last_mut() {
                        call.arguments.push_str(&text);
                    }
                }
            }
        }
    }
}
