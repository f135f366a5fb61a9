//! A sample as text with its trained tokens marked, to be looked at before training.

use super::{encode::Encoded, tokenizer::Tokenizer};

/// How trained tokens are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// `[[text]]`, and `[[text]](2)` where the weight is not 1.
    Brackets,
    /// Green on a terminal; yellow where the weight is not 1.
    Ansi,
}

/// The text of a sample, tokens of weight above 0 marked.
pub fn marked(encoded: &Encoded, tokenizer: &Tokenizer, marks: Marks) -> String {
    let mut out = String::new();
    let mut from = 0;
    let weights = &encoded.weights;
    while let Some(weight) = weights.get(from).copied() {
        let run = weights[from..].iter().take_while(|w| **w == weight).count();
        let text = tokenizer.decode(&encoded.input_ids[from..from + run], true);
        from += run;
        match (weight > 0.0, weight == 1.0, marks) {
            (false, ..) => out.push_str(&text),
            (_, true, Marks::Brackets) => out.push_str(&format!("[[{text}]]")),
            (_, false, Marks::Brackets) => out.push_str(&format!("[[{text}]]({weight})")),
            (_, true, Marks::Ansi) => out.push_str(&format!("\x1b[32m{text}\x1b[0m")),
            (_, false, Marks::Ansi) => out.push_str(&format!("\x1b[33m{text}\x1b[0m({weight})")),
        }
    }
    out
}
