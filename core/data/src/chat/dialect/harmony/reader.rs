//! Reads a completion piece by piece.

use super::{
    ANALYSIS, CALL, CHANNEL, COMMENTARY, CONSTRAIN, END, FUNCTIONS, Header, MESSAGE, RETURN, START,
};
use crate::chat::dialect::{AnswerDelta, AnswerPart, AnswerReader};

/// The role at the beginning of a header. The prompt contains that of the first header.
const ROLE: &str = "assistant";
/// The text before the recipient of a call.
const TO: &str = " to=";

/// The place in a completion that was read up to.
#[derive(Debug, PartialEq)]
enum Position {
    /// In the header of a message, of which this was read.
    Header(String),
    /// After `<|start|>assistant` of the prompt, or after a message without another `<|start|>`: in a header or, of a model that
    /// was never taught channels, in an answer.
    Beginning(String),
    /// In the text of a message.
    Body,
}

/// Reads the text after `<|start|>assistant`.
#[derive(Debug)]
pub struct Reader {
    position: Position,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            position: Position::Beginning(String::new()),
        }
    }
}

impl AnswerReader for Reader {
    fn text(&mut self, text: &str) -> Vec<AnswerDelta> {
        match &mut self.position {
            _ if text.is_empty() => Vec::new(),
            Position::Body => vec![AnswerDelta::Text(text.to_owned())],
            Position::Header(held) => {
                held.push_str(text);
                Vec::new()
            }
            Position::Beginning(held) => {
                held.push_str(text);
                if may_be_header(held) {
                    return Vec::new();
                }
                let held = std::mem::take(held);
                self.position = Position::Body;
                said(held)
            }
        }
    }

    fn control(&mut self, token: &str) -> Vec<AnswerDelta> {
        let position = std::mem::replace(&mut self.position, Position::Body);
        match (token, position) {
            (CHANNEL | CONSTRAIN, Position::Header(held) | Position::Beginning(held)) => {
                self.position = Position::Header(held + token);
                Vec::new()
            }
            (MESSAGE, Position::Header(held) | Position::Beginning(held)) => {
                vec![AnswerDelta::Opened(part(&held))]
            }
            (END | RETURN | CALL | START, position) => {
                self.position = match token {
                    START => Position::Header(String::new()),
                    _ => Position::Beginning(String::new()),
                };
                match position {
                    Position::Header(_) => Vec::new(),
                    Position::Beginning(held) => {
                        let mut deltas = plain(held);
                        deltas.extend((!deltas.is_empty()).then_some(AnswerDelta::Closed));
                        deltas
                    }
                    Position::Body => vec![AnswerDelta::Closed],
                }
            }
            // A token that has no place in harmony, which a model may write all the same.
            (_, position) => {
                self.position = position;
                Vec::new()
            }
        }
    }

    fn end(&mut self) -> Vec<AnswerDelta> {
        match std::mem::replace(&mut self.position, Position::Body) {
            Position::Beginning(held) => plain(held),
            Position::Header(_) | Position::Body => Vec::new(),
        }
    }
}

/// Whether the held text can be the beginning of a header.
fn may_be_header(held: &str) -> bool {
    [ROLE, TO]
        .iter()
        .any(|begin| held.starts_with(begin) || begin.starts_with(held))
}

/// Text that turned out to be no header; that of a call has no end.
fn plain(held: String) -> Vec<AnswerDelta> {
    match held.is_empty() || held.starts_with(TO) {
        true => Vec::new(),
        false => said(held),
    }
}

/// An answer outside of any channel.
fn said(text: String) -> Vec<AnswerDelta> {
    vec![
        AnswerDelta::Opened(AnswerPart::Content),
        AnswerDelta::Text(text),
    ]
}

/// The part that a header opens.
fn part(held: &str) -> AnswerPart {
    let header = match held.starts_with(ROLE) {
        true => Header::read(held),
        false => Header::read(&format!("{ROLE}{held}")),
    };
    match (header.recipient, header.channel.as_deref()) {
        (Some(tool), _) => {
            AnswerPart::Call(tool.strip_prefix(FUNCTIONS).unwrap_or(&tool).to_owned())
        }
        (None, Some(ANALYSIS)) => AnswerPart::Reasoning,
        (None, Some(COMMENTARY)) => AnswerPart::Preamble,
        (None, _) => AnswerPart::Content,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Harmony, marked, parse_completion};
    use super::*;
    use crate::chat::dialect::Dialect;
    use serde_json::Value;

    /// Reasoning, preamble, content and calls of an answer.
    fn folded(deltas: Vec<AnswerDelta>) -> [Vec<String>; 4] {
        let mut found = [const { Vec::new() }; 4];
        let mut at = 0;
        for delta in deltas {
            match delta {
                AnswerDelta::Opened(part) => {
                    let (slot, text) = match part {
                        AnswerPart::Reasoning => (0, String::new()),
                        AnswerPart::Preamble => (1, String::new()),
                        AnswerPart::Content => (2, String::new()),
                        AnswerPart::Call(name) => (3, name + " "),
                    };
                    at = slot;
                    found[at].push(text);
                }
                AnswerDelta::Text(text) => found[at].last_mut().unwrap().push_str(&text),
                AnswerDelta::Closed => {}
            }
        }
        found
    }

    const ANSWERS: [&str; 12] = [
        "<|channel|>analysis<|message|>think<|end|><|start|>assistant<|channel|>final<|message|>answer<|return|>",
        "<|channel|>analysis<|message|>t<|end|><|start|>assistant to=functions.f<|channel|>commentary \
         <|constrain|>json<|message|>{\"a\": 1}<|call|>",
        "<|channel|>commentary to=functions.g <|constrain|>json<|message|>{}<|call|>",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>\
         <|start|>assistant<|channel|>final<|message|>c",
        "<|channel|>commentary<|message|>first<|end|><|start|>assistant<|channel|>commentary to=python<|message|>1<|call|>",
        "<|channel|>final<|message|>half",
        "plain",
        "assistants help<|return|>",
        "ask",
        "",
        "<|channel|>final",
        "<|message|>no channel<|return|>",
    ];

    /// What is read piece by piece is what is read at once, wherever it is cut.
    #[test]
    fn an_answer_reads_the_same_in_pieces() {
        for answer in ANSWERS {
            let whole = parse_completion(&marked(answer)).message();
            let rendered = marked(answer);
            for step in [1, 2, 3, 1000] {
                let mut reader = Harmony.reader();
                let mut deltas = Vec::new();
                for piece in rendered.pieces() {
                    match piece {
                        crate::chat::rendered::RenderedPiece::Control(token) => {
                            deltas.extend(reader.control(token));
                        }
                        crate::chat::rendered::RenderedPiece::Text(text) => {
                            let letters: Vec<char> = text.chars().collect();
                            for piece in letters.chunks(step) {
                                deltas.extend(reader.text(&String::from_iter(piece)));
                            }
                        }
                    }
                }
                deltas.extend(reader.end());
                let [reasoning, preamble, content, calls] = folded(deltas);
                let joined = |texts: Vec<String>| (!texts.is_empty()).then(|| texts.join("\n"));
                assert_eq!(joined(reasoning), whole.thinking, "{answer}");
                let content = joined(content).or(joined(preamble));
                assert_eq!(
                    content.map_or(Value::Null, Value::from),
                    whole.content,
                    "{answer}"
                );
                let expected: Vec<String> = whole
                    .tool_calls
                    .iter()
                    .map(|call| format!("{} {}", call.name, call.arguments))
                    .collect();
                let calls: Vec<String> = calls.iter().map(|call| call.replace(": ", ":")).collect();
                assert_eq!(calls, expected, "{answer}");
            }
        }
    }

    #[test]
    fn what_the_model_spelled_is_text() {
        let mut spelled = marked("<|channel|>final<|message|>a");
        spelled.text("<|end|><|start|>b");
        spelled.mark(RETURN);
        let dialect: &dyn Dialect = &Harmony;
        let [_, _, content, _] = folded(dialect.read(&spelled));
        assert_eq!(content, ["a<|end|><|start|>b"]);
    }

    #[test]
    fn a_part_says_whether_it_was_ended() {
        let dialect: &dyn Dialect = &Harmony;
        let last = |text: &str| dialect.read(&marked(text)).pop();
        assert_eq!(
            last("<|channel|>final<|message|>a<|return|>"),
            Some(AnswerDelta::Closed)
        );
        assert_eq!(
            last("<|channel|>final<|message|>a"),
            Some(AnswerDelta::Text("a".to_owned()))
        );
    }
}
