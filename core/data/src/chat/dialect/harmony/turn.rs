//! Joins the messages of one turn of the assistant, as far as harmony allows.
//!
//! A turn becomes one message for each final answer or call, with the reasoning and the words before it. What cannot be
//! part of that message becomes an open message before it: reasoning before other reasoning, or words before reasoning.

use super::{COMMENTARY, FINAL};
use crate::chat::{turns::Purpose, weighted::WeightedMessage};
use anyhow::{Result, bail};
use apus_sdk::Message;
use serde_json::Value;

/// Joins the messages of a turn.
///
/// # Errors
/// Harmony cannot hold the turn.
pub fn join(turn: Vec<WeightedMessage>, purpose: Purpose) -> Result<Vec<WeightedMessage>> {
    let mut joined: Vec<WeightedMessage> = Vec::with_capacity(turn.len());
    for next in turn {
        match joined.last_mut() {
            Some(last) if continues(last, &next) => append(last, next),
            _ => joined.push(next),
        }
    }
    name_channels(&mut joined, purpose)?;
    joined.retain(says_something);
    Ok(joined)
}

/// Decides the channels of a turn's texts once the whole turn is known: an answer ends a turn, so a text before a call
/// is commentary.
fn name_channels(turn: &mut [WeightedMessage], purpose: Purpose) -> Result<()> {
    let mut before_call = false;
    let count = turn.len();
    for (i, weighted) in turn.iter_mut().enumerate().rev() {
        let number = weighted.number;
        let (fills_content, fills_thinking) = (weighted.has_content(), weighted.has_thinking());
        let WeightedMessage { message, parts, .. } = weighted;
        let calls = !message.tool_calls.is_empty();
        before_call |= calls;
        let stops_short = i + 1 == count && !calls && parts.content.is_none();
        let reasons = parts.thinking.is_some();
        if stops_short && (purpose == Purpose::Training || !reasons) {
            bail!(
                "message {number}: {}, and no answer or call after it in the same turn",
                if reasons { "reasoning" } else { "no text" }
            );
        }
        let open = before_call || i + 1 < count;
        if open && !fills_content && (before_call || fills_thinking) {
            parts.content = None;
            message.content = Value::Null;
        }
        if !before_call || parts.content.is_none() {
            continue;
        }
        match message.channel.as_deref() {
            Some(FINAL) => bail!(
                "message {number}: a final answer with a call of a tool after it in the same turn; what is said \
                 before a call has channel `{COMMENTARY}`, or none"
            ),
            None if !calls || fills_thinking => message.channel = Some(COMMENTARY.to_owned()),
            // The model's template writes such a text as analysis, openai-harmony as commentary.
            None => parts.content_may_be_reasoning = true,
            Some(_) => {}
        }
    }
    Ok(())
}

/// Whether anything of a message is left: an empty text before a call is nothing, also where it has a channel of its own
/// and so was not joined with the call.
fn says_something(weighted: &WeightedMessage) -> bool {
    let parts = &weighted.parts;
    parts.thinking.is_some() || parts.content.is_some() || !parts.calls.is_empty()
}

/// Whether `next` continues `last` in the order of harmony (reasoning, text, call).
fn continues(last: &WeightedMessage, next: &WeightedMessage) -> bool {
    if !last.message.tool_calls.is_empty() {
        return false;
    }
    let said = last.has_content() || last.message.channel.is_some();
    if next.parts.thinking.is_some() && (said || last.has_thinking()) {
        return false;
    }
    !said || next.parts.content.is_none() || goes_on(&last.message, &next.message)
}

/// Whether a text continues the one before, which ms-swift joins. A text that names its channel is a message of its own.
fn goes_on(last: &Message, next: &Message) -> bool {
    let last_is_open = match last.channel.as_deref() {
        None => true,
        Some(channel) => channel == FINAL && next.tool_calls.is_empty(),
    };
    last_is_open && next.channel.is_none()
}

fn append(last: &mut WeightedMessage, next: WeightedMessage) {
    last.append_content(&next);
    if next.parts.thinking.is_some() {
        last.message.thinking = next.message.thinking;
        last.parts.thinking = next.parts.thinking;
    }
    last.message.tool_calls = next.message.tool_calls;
    last.parts.calls = next.parts.calls;
}

#[cfg(test)]
mod tests {
    use super::super::Harmony;
    use crate::chat::{
        Chain, OfRow,
        turns::{Purpose, prepare},
        weighted::{Parts, Weighted},
    };
    use anyhow::Result;
    use apus_sdk::{Conversation, Message};
    use serde_json::{Value, json};

    /// The messages of a turn, each as a line: reasoning, text with its channel, call; in brackets what is
    /// trained of them.
    fn turn(messages: Value) -> Result<Vec<String>> {
        let mut messages: Vec<Message> = serde_json::from_value(messages).unwrap();
        for message in &mut messages {
            message.role = "assistant".to_owned();
        }
        messages.insert(0, Message::new("user", "q"));
        let conversation = Conversation {
            messages,
            ..Conversation::default()
        };
        let prepared = prepare(
            &conversation,
            &Chain::default(),
            &Harmony,
            true,
            Purpose::Training,
            (OfRow::default(), None),
        )?;
        let both = prepared.conversation.messages.iter().zip(&prepared.parts);
        let line = |(message, parts): (&Message, &Parts)| {
            let channel = message.channel.as_deref().unwrap_or("text");
            let texts = [
                ("analysis", parts.thinking.as_ref()),
                (channel, parts.content.as_ref()),
                ("call", parts.calls.first()),
            ];
            let text = |(name, part): (&str, Option<&Weighted>)| {
                let part = part?;
                let mark = if part.is_trained() { "" } else { "-" };
                Some(format!("{mark}{name} {}", part.text))
            };
            let texts: Vec<_> = texts.into_iter().filter_map(text).collect();
            texts.join(", ")
        };
        Ok(both.skip(1).map(line).collect())
    }

    fn call() -> Value {
        json!({"role": "", "tool_calls": [{"name": "f", "arguments": {}}]})
    }

    fn with(mut message: Value, key: &str, value: Value) -> Value {
        message[key] = value;
        message
    }

    fn text(text: &str) -> Value {
        json!({"role": "", "content": text})
    }

    fn thought(text: &str) -> Value {
        json!({"role": "", "thinking": text})
    }

    #[test]
    fn what_stands_before_a_call_is_one_message_with_it() {
        let both = with(call(), "content", "P".into());
        let all = with(both.clone(), "thinking", "R".into());
        let one = ["analysis R, commentary P, call {}"];
        for messages in [
            json!([all]),
            json!([text("<think>R</think>P"), call()]),
            json!([thought("R"), text("P"), call()]),
            json!([thought("R"), both]),
            json!([text("<think>R</think>"), text("P"), call()]),
            json!([
                text("<think>R</think>"),
                with(text("P"), "channel", "commentary".into()),
                call()
            ]),
            json!([text("<|channel|>analysis<|message|>R"), text("P"), call()]),
        ] {
            assert_eq!(turn(messages.clone()).unwrap(), one, "{messages}");
        }
        for messages in [
            json!([both]),
            json!([text("P"), call()]),
            json!([text(""), both]),
        ] {
            assert_eq!(
                turn(messages.clone()).unwrap(),
                ["text P, call {}"],
                "{messages}"
            );
        }
        for messages in [
            json!([with(call(), "thinking", "R".into())]),
            json!([text("<think>\nR\n</think>"), call()]),
            json!([text(""), thought("R"), call()]),
            json!([text("<think>R</think>"), with(call(), "content", "".into())]),
        ] {
            assert_eq!(
                turn(messages.clone()).unwrap(),
                ["analysis R, call {}"],
                "{messages}"
            );
        }
        let empty_commentary = with(text(""), "channel", "commentary".into());
        let empty_text = with(call(), "content", "".into());
        for messages in [
            json!([text(""), call()]),
            json!([empty_commentary, call()]),
            json!([empty_commentary, empty_text]),
            json!([empty_commentary, text(""), call()]),
            json!([text("<|channel|>commentary json<|message|>"), empty_text]),
        ] {
            assert_eq!(turn(messages.clone()).unwrap(), ["call {}"], "{messages}");
        }
        let reasoned = with(call(), "thinking", "R".into());
        let found = turn(json!([empty_commentary, reasoned])).unwrap();
        assert_eq!(found, ["analysis R, call {}"]);
    }

    #[test]
    fn what_cannot_be_one_message_stands_before_it() {
        let reasoned = with(call(), "thinking", "S".into());
        let found = turn(json!([text("<think>R</think>P"), reasoned])).unwrap();
        assert_eq!(found, ["analysis R, commentary P", "analysis S, call {}"]);
        let found = turn(json!([text("<think>R</think>"), reasoned])).unwrap();
        assert_eq!(found, ["analysis R", "analysis S, call {}"]);
        let found = turn(json!([thought("R"), thought("S"), text("a")])).unwrap();
        assert_eq!(found, ["analysis R", "analysis S, text a"]);
        let preamble = with(text("P"), "channel", "commentary".into());
        let found = turn(json!([preamble, preamble, text("a"), text("b")])).unwrap();
        assert_eq!(found, ["commentary P", "commentary P", "text ab"]);
        let found = turn(json!([text("a"), call(), text("b"), call()])).unwrap();
        assert_eq!(found, ["text a, call {}", "text b, call {}"]);
    }

    #[test]
    fn a_final_answer_before_a_call_is_refused() {
        let last = with(text("a"), "channel", "final".into());
        let bad = turn(json!([last, call()])).unwrap_err().to_string();
        assert!(
            bad.starts_with("message 2: a final answer with a call"),
            "{bad}"
        );
        let one = with(last, "tool_calls", call()["tool_calls"].clone());
        assert!(turn(json!([one])).is_err());
        let by_hand = text("<|channel|>final<|message|>a");
        assert!(turn(json!([by_hand, call()])).is_err());
        assert_eq!(turn(json!([by_hand, text("b")])).unwrap(), ["final ab"]);
    }

    #[test]
    fn marks_go_with_their_own_text() {
        let off = |message| with(message, "loss", false.into());
        let found = turn(json!([off(text("<think>R</think>P")), call()])).unwrap();
        assert_eq!(found, ["-analysis R, -commentary P, call {}"]);
        let found = turn(json!([thought("R"), off(text("P")), off(call())])).unwrap();
        assert_eq!(found, ["analysis R, -commentary P, -call {}"]);
        let found = turn(json!([thought("R"), off(text("")), text("a")])).unwrap();
        assert_eq!(found, ["analysis R, text a"]);
        let found = turn(json!([text("a"), off(text(""))])).unwrap();
        assert_eq!(found, ["text a"]);
    }
}
