//! What a model generated, back to a message: reasoning, answer, calls of tools.

use super::{ASSISTANT, MESSAGE, RETURN, START, parse::Header, parse::next_close};
use apus_sdk::{Message, ToolCall};
use serde_json::Value;

/// One harmony message of a completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its header.
    pub header: Header,
    /// Its text.
    pub text: String,
    /// Whether the model ended it, or generation was cut off inside.
    pub complete: bool,
}

/// The messages that a model generated after `<|start|>assistant`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Completion {
    /// In the order in which they were generated.
    pub parts: Vec<Part>,
}

impl Completion {
    /// The texts of one channel, joined by line breaks; `None` if it was not used.
    pub fn channel(&self, name: &str) -> Option<String> {
        let in_channel = |part: &&Part| {
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
        let call = |part: &Part| {
            let name = part.header.recipient.as_deref()?;
            Some(ToolCall {
                name: name.strip_prefix("functions.").unwrap_or(name).to_owned(),
                arguments: serde_json::from_str(&part.text)
                    .unwrap_or_else(|_| Value::from(part.text.as_str())),
            })
        };
        self.parts.iter().filter_map(call).collect()
    }

    /// The assistant's message: analysis as thinking, final (or commentary meant for the user) as
    /// content.
    pub fn message(&self) -> Message {
        let unnamed = || {
            let plain = |part: &&Part| part.header.channel.is_none();
            self.parts.iter().find(plain).map(|part| part.text.clone())
        };
        let content = self
            .channel("final")
            .or_else(|| self.channel("commentary"))
            .or_else(unnamed);
        Message {
            role: "assistant".to_owned(),
            content: content.map_or(Value::Null, Value::from),
            thinking: self.channel("analysis"),
            tool_calls: self.tool_calls(),
            ..Message::default()
        }
    }
}

/// Reads what a model generated after a prompt that ends with `<|start|>assistant`. Nothing is
/// refused: text that is cut off or is no harmony at all becomes a part as well.
pub fn parse_completion(text: &str) -> Completion {
    let opened = if text.starts_with(START) {
        text.to_owned()
    } else {
        format!("{ASSISTANT}{text}")
    };
    let mut parts = Vec::new();
    for chunk in opened.split(START).filter(|chunk| !chunk.is_empty()) {
        let Some((header, body)) = chunk.split_once(MESSAGE) else {
            let text = chunk.strip_prefix("assistant").unwrap_or(chunk);
            let text = text.trim_end_matches(RETURN);
            if !text.is_empty() {
                parts.push(Part {
                    header: Header::read("assistant"),
                    text: text.to_owned(),
                    complete: false,
                });
            }
            continue;
        };
        let close = next_close(body);
        parts.push(Part {
            header: Header::read(header),
            text: body[..close.map_or(body.len(), |(at, _)| at)].to_owned(),
            complete: close.is_some(),
        });
    }
    Completion { parts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
        assert_eq!(parse_completion(""), Completion::default());
        assert_eq!(
            parse_completion("<|channel|>fin").message().text(),
            Some("<|channel|>fin")
        );
    }
}
