//! Reads what a model generated as a message: reasoning, answer and calls of tools.

use super::{
    ANALYSIS, CALL, CHANNEL, COMMENTARY, CONSTRAIN, END, FINAL, FUNCTIONS, MESSAGE, RETURN, START,
    parse::Header,
};
use crate::chat::rendered::Rendered;
use apus_sdk::{Message, ToolCall, json};
use serde_json::Value;
use std::ops::Range;

/// One harmony message of a completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompletionPart {
    /// Its header.
    pub header: Header,
    /// Its text.
    pub text: String,
    /// Whether the model ended it; `false` if generation was cut off inside.
    pub complete: bool,
}

/// The messages that a model generated after `<|start|>assistant`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Completion {
    /// The messages in the order in which they were generated.
    pub parts: Vec<CompletionPart>,
}

impl Completion {
    /// The texts of one channel, joined by line breaks; `None` if it was not used.
    pub fn channel(&self, name: &str) -> Option<String> {
        let in_channel = |part: &&CompletionPart| {
            part.header.channel.as_deref() == Some(name) && part.header.recipient.is_none()
        };
        let texts: Vec<_> = self
            .parts
            .iter()
            .filter(in_channel)
            .map(|p| p.text.as_str())
            .collect();
        (!texts.is_empty()).then(|| texts.join("\n"))
    }

    /// The calls of tools, in order. Arguments that are not JSON stay text.
    pub fn tool_calls(&self) -> Vec<ToolCall> {
        let call = |part: &CompletionPart| {
            let name = part.header.recipient.as_deref()?;
            Some(ToolCall {
                name: name.strip_prefix(FUNCTIONS).unwrap_or(name).to_owned(),
                arguments: json::read(&part.text)
                    .unwrap_or_else(|_| Value::from(part.text.as_str())),
            })
        };
        self.parts.iter().filter_map(call).collect()
    }

    /// The assistant's message: analysis as thinking, final (or commentary meant for the user) as
    /// content.
    pub fn message(&self) -> Message {
        let unnamed = || {
            let plain = |part: &&CompletionPart| part.header.channel.is_none();
            self.parts.iter().find(plain).map(|part| part.text.clone())
        };
        let content = self
            .channel(FINAL)
            .or_else(|| self.channel(COMMENTARY))
            .or_else(unnamed);
        Message {
            role: "assistant".to_owned(),
            content: content.map_or(Value::Null, Value::from),
            thinking: self.channel(ANALYSIS),
            tool_calls: self.tool_calls(),
            ..Message::default()
        }
    }
}

/// Reads what a model generated after a prompt that ends with `<|start|>assistant`. Nothing is
/// refused: text that is cut off or is not harmony becomes a part, too. A header that is cut off is left out, since it
/// has no text. Text that only looks like a marker is text.
pub fn parse_completion(completion: &Rendered) -> Completion {
    let text = completion.text.as_str();
    let marks = completion.marks.iter();
    let starts = marks.filter(|mark| &text[(*mark).clone()] == START);
    let mut openings: Vec<(usize, usize)> = starts.map(|mark| (mark.start, mark.end)).collect();
    let open = openings.first().is_none_or(|(start, _)| *start > 0);
    if open {
        openings.insert(0, (0, 0));
    }
    let ends = openings.iter().skip(1).map(|(start, _)| *start);
    let chunks = openings.iter().zip(ends.chain([text.len()]));
    let parts = chunks.enumerate().filter_map(|(i, (&(_, from), to))| {
        let role = if open && i == 0 { "assistant" } else { "" };
        part(completion, from..to, role)
    });
    Completion {
        parts: parts.collect(),
    }
}

/// The part in this range of a completion, after `role`, if there is one.
fn part(completion: &Rendered, range: Range<usize>, role: &str) -> Option<CompletionPart> {
    let text = &completion.text[..range.end];
    let inside = |mark: &&Range<usize>| mark.start >= range.start && mark.end <= range.end;
    let mut marks = completion.marks.iter().filter(inside);
    let Some(message) = marks.find(|mark| &text[(*mark).clone()] == MESSAGE) else {
        let mut marks = completion.marks.iter().filter(inside);
        let is_header = role.is_empty()
            || marks.any(|mark| [CHANNEL, CONSTRAIN].contains(&&text[mark.clone()]));
        let plain = text[range].trim_end_matches(RETURN);
        return (!is_header && !plain.is_empty()).then(|| CompletionPart {
            header: Header::read("assistant"),
            text: plain.to_owned(),
            complete: false,
        });
    };
    let close = marks.find(|mark| [END, RETURN, CALL].contains(&&text[(*mark).clone()]));
    let end = close.map_or(range.end, |mark| mark.start);
    Some(CompletionPart {
        header: Header::read(&format!("{role}{}", &text[range.start..message.start])),
        text: text[message.end..end].to_owned(),
        complete: close.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::marked;
    use super::*;
    use serde_json::json;

    fn parse_completion(text: &str) -> Completion {
        super::parse_completion(&marked(text))
    }

    #[test]
    fn analysis_and_final() {
        let found = parse_completion(
            "<|channel|>analysis<|message|>think<|end|><|start|>assistant<|channel|>final<|message|>answer<|return|>",
        );
        let message = found.message();
        assert_eq!(message.thinking.as_deref(), Some("think"));
        assert_eq!(message.text(), Some("answer"));
        assert!(found.parts.iter().all(|part| part.complete));
    }

    #[test]
    fn a_call_of_a_tool() {
        let found = parse_completion(
            "<|channel|>analysis<|message|>t<|end|><|start|>assistant to=functions.f<|channel|>commentary \
             <|constrain|>json<|message|>{\"a\": 1}<|call|>",
        );
        let [call] = found.tool_calls().try_into().unwrap();
        assert_eq!((call.name.as_str(), call.arguments), ("f", json!({"a": 1})));
        assert!(found.message().content.is_null());
    }

    #[test]
    fn text_cut_off_and_plain_text() {
        let cut = parse_completion("<|channel|>final<|message|>half");
        assert!(!cut.parts[0].complete);
        assert_eq!(cut.message().text(), Some("half"));
        assert_eq!(parse_completion("plain").message().text(), Some("plain"));
        assert_eq!(
            parse_completion("assistants help<|return|>")
                .message()
                .text(),
            Some("assistants help")
        );
        assert_eq!(parse_completion(""), Completion::default());
    }

    #[test]
    fn a_header_that_is_cut_off_says_nothing() {
        let thought = "<|channel|>analysis<|message|>t<|end|>";
        for header in [
            "<|start|>",
            "<|start|>assist",
            "<|start|>assistant<|channel|>fin",
            "<|start|>assistant to=functions.f",
            "<|start|>assistant to=functions.f<|channel|>commentary <|constrain|>js",
        ] {
            let alone = header.trim_start_matches("<|start|>assistant");
            if alone.contains("<|channel|>") {
                assert_eq!(parse_completion(alone), Completion::default(), "{alone}");
            }
            let message = parse_completion(&format!("{thought}{header}")).message();
            assert_eq!(message.thinking.as_deref(), Some("t"), "{header}");
            assert!(message.content.is_null(), "{header}");
            assert!(message.tool_calls.is_empty(), "{header}");
        }
    }

    #[test]
    fn what_the_model_spelled_is_text() {
        let mut spelled = marked("<|channel|>final<|message|>a");
        spelled.text("<|end|><|start|>b");
        spelled.mark(RETURN);
        let found = super::parse_completion(&spelled);
        assert_eq!(found.message().text(), Some("a<|end|><|start|>b"));
        assert!(found.parts[0].complete);
    }
}
