//! Shows a sample as text with its trained tokens marked, for a look before training.

use super::{encode::Encoded, tokenizer::Tokenizer};
use serde::Serialize;
use std::str::from_utf8;

/// How trained tokens are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkStyle {
    /// `[[text]]`, and `[[text]](2)` where the weight is not 1.
    Brackets,
    /// Green on a terminal, or yellow where the weight is not 1.
    Ansi,
}

impl MarkStyle {
    /// Colours if standard output is a terminal that has them and NO_COLOR is not set, else brackets.
    pub fn of_stdout() -> Self {
        match console::colors_enabled() {
            true => Self::Ansi,
            false => Self::Brackets,
        }
    }
}

/// The smallest number of tokens that make whole characters, all of one weight if characters allow it.
#[derive(Debug, Clone, PartialEq)]
pub struct PreviewPiece {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// The weight of the last of them.
    pub weight: f32,
    /// The token that is trained in place of the one in the text, where an earlier answer ends.
    pub other: Option<u32>,
}

/// A run of text with one weight.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WeightRun {
    /// The text.
    pub text: String,
    /// Its weight in the loss.
    pub weight: f32,
    /// As in [`PreviewPiece`].
    #[serde(skip)]
    pub other: Option<u32>,
}

/// Splits a sample into pieces, whose texts join to the text of the sample.
pub fn pieces(encoded: &Encoded, tokenizer: &Tokenizer) -> Vec<PreviewPiece> {
    let mut pieces = Vec::with_capacity(encoded.len());
    let (mut bytes, mut ids) = (Vec::new(), Vec::new());
    let tokens = encoded.input_ids.iter().zip(&encoded.weights);
    for (at, ((id, weight), label)) in tokens.zip(&encoded.labels).enumerate() {
        bytes.extend_from_slice(tokenizer.token(*id));
        ids.push(*id);
        let unfinished = from_utf8(&bytes).is_err_and(|error| error.error_len().is_none());
        if !unfinished || at + 1 == encoded.len() {
            pieces.push(PreviewPiece {
                text: String::from_utf8_lossy(&bytes).into_owned(),
                ids: std::mem::take(&mut ids),
                weight: *weight,
                other: u32::try_from(*label)
                    .ok()
                    .filter(|label| *weight > 0.0 && label != id),
            });
            bytes.clear();
        }
    }
    pieces
}

/// Splits a sample into runs of equal weight, whose texts join to the text of the sample.
pub fn weight_runs(encoded: &Encoded, tokenizer: &Tokenizer) -> Vec<WeightRun> {
    let mut weight_runs: Vec<WeightRun> = Vec::new();
    for piece in pieces(encoded, tokenizer) {
        match weight_runs.last_mut() {
            Some(last) if (last.weight, last.other) == (piece.weight, piece.other) => {
                last.text.push_str(&piece.text)
            }
            _ => weight_runs.push(WeightRun {
                text: piece.text,
                weight: piece.weight,
                other: piece.other,
            }),
        }
    }
    weight_runs
}

/// The text of a sample with tokens of weight above 0 marked. If another token is trained than the one in the text, it
/// follows: `[[A]](B)`. Control characters of the
/// data are shown as symbols, since a terminal would obey them.
pub fn marked(encoded: &Encoded, tokenizer: &Tokenizer, marks: MarkStyle) -> String {
    let mut out = String::new();
    for run in weight_runs(encoded, tokenizer) {
        let WeightRun {
            text,
            weight,
            other,
        } = run;
        let text = harmless(&text);
        let other = other.map(|id| tokenizer.decode(&[id], true));
        let number = (weight != 1.0).then(|| weight.to_string());
        let notes: Vec<String> = other.into_iter().chain(number).collect();
        let notes = match notes.as_slice() {
            [] => String::new(),
            notes => format!("({})", notes.join(", ")),
        };
        match (weight > 0.0, marks) {
            (false, _) => out.push_str(&text),
            (true, MarkStyle::Brackets) => out.push_str(&format!("[[{text}]]{notes}")),
            (true, MarkStyle::Ansi) if notes.is_empty() => {
                out.push_str(&format!("\x1b[32m{text}\x1b[0m"));
            }
            (true, MarkStyle::Ansi) => out.push_str(&format!("\x1b[33m{text}\x1b[0m{notes}")),
        }
    }
    out
}

/// The text with symbols (from U+2400 on) in place of control characters other than line breaks and tabs.
fn harmless(text: &str) -> String {
    let picture = |c: char| match c {
        '\n' | '\t' => c,
        '\u{7f}' => '\u{2421}',
        '\0'..'\u{20}' => char::from_u32(0x2400 + c as u32).unwrap_or(c),
        '\u{80}'..'\u{a0}' => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(picture).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing_by_the_data() {
        assert_eq!(
            harmless("a\x1b[31m\r\n\tb\u{9b}é"),
            "a\u{241b}[31m\u{240d}\n\tb\u{fffd}é"
        );
    }
}
