//! A sample as text with its trained tokens marked, to be looked at before training.

use super::{
    encode::{Encoded, IGNORED},
    tokenizer::Tokenizer,
};

/// How trained tokens are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// `[[text]]`, and `[[text]](2)` where the weight is not 1.
    Brackets,
    /// Green on a terminal; yellow where the weight is not 1.
    Ansi,
}

/// The text of a sample, tokens of weight above 0 marked. Where another token than the one that
/// stands there has to be learnt, that one follows: `[[<|end|>]](<|return|>)`.
pub fn marked(encoded: &Encoded, tokenizer: &Tokenizer, marks: Marks) -> String {
    let mut out = String::new();
    let mut from = 0;
    let kind = |i: usize| {
        let (id, label) = (*encoded.input_ids.get(i)?, *encoded.labels.get(i)?);
        let other = (label != IGNORED && label != i64::from(id)).then_some(label);
        Some((*encoded.weights.get(i)?, other))
    };
    while let Some((weight, other)) = kind(from) {
        let same = |i: &usize| kind(*i) == Some((weight, other));
        let run = (from..).take_while(same).count();
        let text = tokenizer.decode(&encoded.input_ids[from..from + run], true);
        from += run;
        let wanted = other.and_then(|label| u32::try_from(label).ok());
        let wanted = wanted.map(|label| tokenizer.decode(&[label], true));
        let number = (weight != 1.0).then(|| weight.to_string());
        let notes: Vec<String> = wanted.into_iter().chain(number).collect();
        let notes = match notes.as_slice() {
            [] => String::new(),
            notes => format!("({})", notes.join(", ")),
        };
        match (weight > 0.0, marks) {
            (false, _) => out.push_str(&text),
            (true, Marks::Brackets) => out.push_str(&format!("[[{text}]]{notes}")),
            (true, Marks::Ansi) if notes.is_empty() => {
                out.push_str(&format!("\x1b[32m{text}\x1b[0m"));
            }
            (true, Marks::Ansi) => out.push_str(&format!("\x1b[33m{text}\x1b[0m{notes}")),
        }
    }
    out
}
