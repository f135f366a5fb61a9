//! Splits an answer of the dataset into harmony's messages: reasoning is taken out of the content, and content with
//! harmony's own markers is read as the messages that it holds.

use super::{
    COMMENTARY, FINAL,
    by_hand::{self, MessageByHand},
};
use crate::chat::{
    dialect::SplitAnswer,
    think,
    weighted::{Parts, Weighted, WeightedMessage},
};
use anyhow::{Result, ensure};
use apus_sdk::{Message, ToolCall};
use serde_json::Value;

/// Splits an answer. Content with harmony's own markers may be several messages.
///
/// # Errors
/// Harmony cannot hold the content or the call.
pub fn split(answer: WeightedMessage, think_to_analysis: bool) -> Result<SplitAnswer> {
    can_be_written(&answer)?;
    match &answer.parts.content {
        Some(content) if by_hand::is_by_hand(&content.text) => {
            let pieces = by_hand::split(content)?;
            Ok(SplitAnswer {
                messages: written_by_hand(answer, pieces)?,
                moved_thinking: false,
            })
        }
        Some(content) if think_to_analysis => {
            let taken = think::take(content, answer.message.thinking.as_deref())?;
            let moved_thinking = taken.is_some();
            let mut parts = answer.parts.clone();
            if let Some((thinking, content)) = taken {
                if !answer.has_thinking() && !thinking.text.is_empty() {
                    parts.thinking = Some(thinking);
                }
                parts.content = Some(content);
            }
            Ok(SplitAnswer {
                messages: vec![with_parts(&answer, parts)],
                moved_thinking,
            })
        }
        _ => Ok(SplitAnswer {
            messages: vec![answer],
            moved_thinking: false,
        }),
    }
}

/// Checks that harmony has a place for the channel and the calls of an answer.
fn can_be_written(answer: &WeightedMessage) -> Result<()> {
    let message = &answer.message;
    if let Some(channel) = &message.channel {
        ensure!(
            channel == FINAL || channel == COMMENTARY,
            "channel `{channel}` of a content, expected {FINAL} or {COMMENTARY} (reasoning is `thinking`)"
        );
    }
    ensure!(
        message.tool_calls.len() < 2,
        "{} tool calls in one message, but harmony renders one a message: write an assistant \
         message for each call, followed by its result",
        message.tool_calls.len()
    );
    for call in &message.tool_calls {
        ensure!(
            !call.name.is_empty() && !call.name.contains([' ', '<', '\n', '\t', '\r']),
            "a tool is called `{}`; names are not empty and hold neither white space nor `<`",
            call.name
        );
    }
    Ok(())
}

/// The messages of content with harmony's own markers, and those of the answer's other texts.
fn written_by_hand(
    answer: WeightedMessage,
    pieces: Vec<MessageByHand>,
) -> Result<Vec<WeightedMessage>> {
    ensure!(
        answer.message.channel.is_none(),
        "content with harmony's own markers, and a channel besides"
    );
    let mut messages = Vec::new();
    if answer.parts.thinking.is_some() {
        let analyses = pieces
            .iter()
            .filter(|piece| matches!(piece, MessageByHand::Analysis(_)));
        ensure!(
            analyses.count() == 0,
            "`thinking`, and an analysis message in the content too; leave one of them out"
        );
        let parts = Parts {
            thinking: answer.parts.thinking.clone(),
            ..Parts::default()
        };
        messages.push(message(&answer, parts, Vec::new(), None));
    }
    messages.extend(pieces.into_iter().map(|piece| by_itself(&answer, piece)));
    if !answer.parts.calls.is_empty() {
        let calls = |by_hand: &WeightedMessage| !by_hand.message.tool_calls.is_empty();
        ensure!(
            !messages.iter().any(calls),
            "a call of a tool, and another one in the content"
        );
        let parts = Parts {
            calls: answer.parts.calls.clone(),
            ..Parts::default()
        };
        let tool_calls = answer.message.tool_calls.clone();
        messages.push(message(&answer, parts, tool_calls, None));
    }
    Ok(messages)
}

/// The answer with these texts in place of its own.
fn with_parts(answer: &WeightedMessage, parts: Parts) -> WeightedMessage {
    let (calls, channel) = (
        answer.message.tool_calls.clone(),
        answer.message.channel.clone(),
    );
    message(answer, parts, calls, channel)
}

/// A message of an answer, with these texts.
fn message(
    answer: &WeightedMessage,
    parts: Parts,
    tool_calls: Vec<ToolCall>,
    channel: Option<String>,
) -> WeightedMessage {
    let text = |part: &Option<Weighted>| part.as_ref().map(|part| part.text.clone());
    WeightedMessage {
        number: answer.number,
        message: Message {
            content: text(&parts.content).map_or(Value::Null, Value::from),
            thinking: text(&parts.thinking),
            tool_calls,
            channel,
            ..answer.message.clone()
        },
        parts,
    }
}

/// A message that was written with harmony's own markers, with the channel that it names.
fn by_itself(answer: &WeightedMessage, piece: MessageByHand) -> WeightedMessage {
    let mut parts = Parts::default();
    let mut calls = Vec::new();
    let channel = match piece {
        MessageByHand::Analysis(text) => {
            parts.thinking = Some(text);
            None
        }
        MessageByHand::Commentary(text) => {
            parts.content = Some(text);
            Some(COMMENTARY.to_owned())
        }
        MessageByHand::Final(text) => {
            parts.content = Some(text);
            Some(FINAL.to_owned())
        }
        MessageByHand::Call(call, arguments) => {
            parts.calls = vec![arguments];
            calls.push(call);
            None
        }
    };
    message(answer, parts, calls, channel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::turns::tests::prepare_one;

    fn split_of(content: &str) -> (Option<String>, Option<String>) {
        let (message, _) = prepare_one(Message::new("assistant", content)).unwrap();
        (message.thinking.clone(), message.text().map(str::to_owned))
    }

    fn pair(thinking: Option<&str>, content: &str) -> (Option<String>, Option<String>) {
        (thinking.map(str::to_owned), Some(content.to_owned()))
    }

    #[test]
    fn a_think_block_becomes_the_analysis() {
        assert_eq!(
            split_of("<think>\nxxx</think>\n\na b "),
            pair(Some("xxx"), "a b ")
        );
        assert_eq!(split_of("<think>\n\n</think>\n\nhi"), pair(None, "hi"));
        assert_eq!(
            split_of("hi <think>x</think>"),
            pair(None, "hi <think>x</think>")
        );
        assert_eq!(split_of("<think>open"), pair(None, "<think>open"));
    }

    #[test]
    fn markers_written_by_hand_are_read() {
        let both =
            "<|channel|>analysis<|message|>t<|end|><|start|>assistant<|channel|>final<|message|>c";
        assert_eq!(split_of(both), pair(Some("t"), "c"));
        assert_eq!(
            split_of(&format!("{both}<|return|>\n")),
            pair(Some("t"), "c")
        );
        assert_eq!(
            split_of(&format!("<|start|>assistant{both}")),
            pair(Some("t"), "c")
        );
        assert_eq!(
            split_of("<|channel|>final<|message|> c\n"),
            pair(None, " c\n")
        );
    }

    #[test]
    fn reasoning_that_is_there_twice_counts_once() {
        let both = |content: &str| {
            prepare_one(Message {
                thinking: Some("r".to_owned()),
                ..Message::new("assistant", content)
            })
        };
        let (same, _) = both("<think>\nr\n</think>\n\na").unwrap();
        assert_eq!(
            (same.thinking.as_deref(), same.text()),
            (Some("r"), Some("a"))
        );
        let bad = format!("{:#}", both("<think>s</think>a").unwrap_err());
        assert!(bad.contains("other reasoning besides"), "{bad}");
        let by_hand =
            "<|channel|>analysis<|message|>s<|end|><|start|>assistant<|channel|>final<|message|>a";
        let bad = format!("{:#}", both(by_hand).unwrap_err());
        assert!(bad.contains("leave one of them out"), "{bad}");
    }

    #[test]
    fn a_call_written_by_hand() {
        let text = "<|channel|>analysis<|message|>t<|end|><|start|>assistant to=functions.f\
                    <|channel|>commentary json<|message|>{\"x\":1}<|call|>";
        let (message, parts) = prepare_one(Message::new("assistant", text)).unwrap();
        assert_eq!(message.thinking.as_deref(), Some("t"));
        assert!(message.content.is_null());
        assert_eq!(message.tool_calls[0].name, "f");
        assert_eq!(message.tool_calls[0].arguments["x"], 1);
        assert_eq!(parts.calls[0].text, "{\"x\": 1}");
        let call = text.split_once("assistant").unwrap().1;
        for spelled in [
            call,
            call.trim_start(),
            &format!("\n<|start|>assistant{call}"),
        ] {
            let (message, _) = prepare_one(Message::new("assistant", spelled)).unwrap();
            assert_eq!(message.tool_calls[0].name, "f", "{spelled}");
        }
        for none in ["", " ", "null"] {
            let text = text.replace("{\"x\":1}", none);
            let (message, _) = prepare_one(Message::new("assistant", text)).unwrap();
            assert_eq!(message.tool_calls[0].arguments, serde_json::json!({}));
        }
        let broken = text.replace("{\"x\":1}", "{x}");
        let bad = prepare_one(Message::new("assistant", broken)).unwrap_err();
        assert!(format!("{bad:#}").contains("must be JSON"), "{bad:#}");
    }

    #[test]
    fn what_the_template_would_lose_is_refused() {
        let error = |message| format!("{:#}", prepare_one(message).unwrap_err());
        let bad = error(Message::new("system", "late"));
        assert!(
            bad.contains("message 2 (system)") && bad.contains("drop"),
            "{bad}"
        );
        let python = "<|start|>assistant to=python<|channel|>commentary json<|message|>{}<|call|>";
        let bad = error(Message::new("assistant", python));
        assert!(bad.contains("a call to `python`"), "{bad}");
        let on =
            "<|channel|>final<|message|>x<|end|><|start|>assistant<|channel|>analysis<|message|>y";
        let bad = error(Message::new("assistant", on));
        assert!(bad.contains("goes on after its final answer"), "{bad}");
        let bad = error(Message {
            channel: Some("analysis".to_owned()),
            ..Message::new("assistant", "x")
        });
        assert!(bad.contains("channel `analysis`"), "{bad}");
        let call = apus_sdk::ToolCall {
            name: "f".to_owned(),
            arguments: Value::Null,
        };
        let bad = error(Message {
            tool_calls: vec![call.clone(), call],
            ..Message::new("assistant", "")
        });
        assert!(bad.contains("2 tool calls"), "{bad}");
    }
}
