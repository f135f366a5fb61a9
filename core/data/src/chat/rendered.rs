//! A conversation as text, and which bytes of it are control tokens.
//!
//! The same letters can be a token that frames a message, or text that somebody typed into one. Whoever
//! renders knows which it is, and everything after it (reading the text back, weighing it, tokenising it)
//! asks here instead of looking for letters.

use super::control::TokenSet;
use std::ops::Range;

/// Text with the places of its control tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rendered {
    /// The text, control tokens written out.
    pub text: String,
    /// Where control tokens stand, in order.
    pub marks: Vec<Range<usize>>,
}

impl Rendered {
    /// Text in which everything that looks like a control token is one.
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

    /// A part of it; a control token that is not whole in it is text.
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

    /// The text in pieces: each control token by itself, and what stands before, between and behind them.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let mut from = 0;
        let marks = self.marks.iter().flat_map(move |mark| {
            let before = &self.text[std::mem::replace(&mut from, mark.end)..mark.start];
            [
                Piece::Text(before),
                Piece::Control(&self.text[mark.clone()]),
            ]
        });
        let last = self.marks.last().map_or(0, |mark| mark.end);
        marks.chain([Piece::Text(&self.text[last..])])
    }
}

/// A stretch of rendered text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Ordinary text, perhaps none.
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
            Piece::Text(""),
            Piece::Control("<|a|>"),
            Piece::Text("<|a|> typed"),
            Piece::Control("<|b|>"),
            Piece::Text(""),
        ];
        assert_eq!(pieces, expected);
        assert_eq!(rendered.text, "<|a|><|a|> typed<|b|>");
        let part = Rendered {
            text: "typed<|b|>".to_owned(),
            marks: std::iter::once(5..10).collect(),
        };
        assert_eq!(rendered.slice(11..21), part);
        let none = Rendered::default();
        assert_eq!(none.pieces().collect::<Vec<_>>(), [Piece::Text("")]);
    }
}
