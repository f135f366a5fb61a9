//! A conversation as text, and which bytes of it are control tokens.
//!
//! The same characters can be a token that frames a message, or text that somebody typed. Only the renderer knows which,
//! so it records the ranges of control tokens, and later steps (reading the text back, weights, tokenising) use these
//! ranges instead of looking for characters.

use super::control::TokenSet;
use std::ops::Range;

/// Text with the ranges of its control tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rendered {
    /// The text, control tokens written out.
    pub text: String,
    /// The ranges of control tokens, in order.
    pub marks: Vec<Range<usize>>,
}

impl Rendered {
    /// Takes everything in a text that looks like a control token as one.
    pub fn read(text: String, control: &TokenSet) -> Self {
        let marks = control.find(&text).map(|(range, _)| range).collect();
        Self { text, marks }
    }

    /// Adds text, whatever it looks like.
    pub fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Adds a control token.
    pub fn mark(&mut self, token: &str) {
        let from = self.text.len();
        self.text.push_str(token);
        self.marks.push(from..self.text.len());
    }

    /// A part of the text; a control token that is cut by the range becomes text.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let inside = |mark: &&Range<usize>| mark.start >= range.start && mark.end <= range.end;
        let marks = self.marks.iter().filter(inside);
        Self {
            marks: marks
                .map(|mark| mark.start - range.start..mark.end - range.start)
                .collect(),
            text: self.text[range].to_owned(),
        }
    }

    /// The text in pieces: each control token, and the text before, between and after them.
    pub fn pieces(&self) -> impl Iterator<Item = RenderedPiece<'_>> {
        let mut from = 0;
        let marks = self.marks.iter().flat_map(move |mark| {
            let before = &self.text[std::mem::replace(&mut from, mark.end)..mark.start];
            [
                RenderedPiece::Text(before),
                RenderedPiece::Control(&self.text[mark.clone()]),
            ]
        });
        let last = self.marks.last().map_or(0, |mark| mark.end);
        marks.chain([RenderedPiece::Text(&self.text[last..])])
    }
}

/// A piece of rendered text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenderedPiece<'a> {
    /// Ordinary text, which may be empty.
    Text(&'a str),
    /// A control token.
    Control(&'a str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_join_to_the_text() {
        let mut rendered = Rendered::default();
        rendered.mark("<|a|>");
        rendered.text("<|a|> typed");
        rendered.mark("<|b|>");
        let pieces: Vec<_> = rendered.pieces().collect();
        let expected = [
            RenderedPiece::Text(""),
            RenderedPiece::Control("<|a|>"),
            RenderedPiece::Text("<|a|> typed"),
            RenderedPiece::Control("<|b|>"),
            RenderedPiece::Text(""),
        ];
        assert_eq!(pieces, expected);
        assert_eq!(rendered.text, "<|a|><|a|> typed<|b|>");
        let part = Rendered {
            text: "typed<|b|>".to_owned(),
            marks: std::iter::once(5..10).collect(),
        };
        assert_eq!(rendered.slice(11..21), part);
        let none = Rendered::default();
        assert_eq!(none.pieces().collect::<Vec<_>>(), [RenderedPiece::Text("")]);
    }
}
