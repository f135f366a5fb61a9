//! Joins the messages of one turn of the assistant, as far as harmony allows.
//!
//! Datasets write a turn in several ways: reasoning, words to the user and call in one message, or each in
//! a message of its own; a text in pieces, which ms-swift joins. Here they become the same messages: one
//! for each final answer or call, with the reasoning and the words before it. What cannot be part of that message becomes
//! an open message before it: reasoning before other reasoning, or words before reasoning. The marks of a message
//! (`loss`, `loss_scale`) are weights already and stay with its text.

use super::{
    turns::{COMMENTARY, FINAL, Parts, Purpose},
    weighted::Weighted,
};
use anyhow::{Result, bail};
use apus_sdk::Message;
use serde_json::Value;

/// Joins messages one after another.
#[derive(Debug)]
pub struct Joiner {
    purpose: Purpose,
    messages: Vec<Message>,
    parts: Vec<Parts>,
    /// For each message, the number of the first one that it was made of.
    numbers: Vec<usize>,
    /// The index at which the turn of the last message begins.
    turn: usize,
}

impl Joiner {
    /// Makes a joiner without messages.
    pub fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            messages: Vec::new(),
            parts: Vec::new(),
            numbers: Vec::new(),
            turn: 0,
        }
    }

    /// Adds a message of the dataset, which has this number (from 1).
    ///
    /// # Errors
    /// Harmony cannot hold the turn of the assistant before it.
    pub fn push(&mut self, number: usize, message: Message, parts: Parts) -> Result<()> {
        if self.messages.last().is_some_and(|l| l.role != message.role) {
            self.end_turn()?;
        }
        if let (Some(last), Some(last_parts)) = (self.messages.last_mut(), self.parts.last_mut())
            && last.role == message.role
        {
            let joined = match message.role.as_str() {
                "user" => append(last, last_parts, &message, &parts),
                "assistant" => join(last, last_parts, &message, &parts),
                _ => false,
            };
            if joined {
                return Ok(());
            }
        }
        self.messages.push(message);
        self.parts.push(parts);
        self.numbers.push(number);
        Ok(())
    }

    /// The text of the last message, if it has one.
    pub fn last_text(&self) -> Option<&str> {
        self.messages.last().and_then(Message::text)
    }

    /// The messages and their texts.
    ///
    /// # Errors
    /// Harmony cannot hold the last turn of the assistant.
    pub fn finish(mut self) -> Result<(Vec<Message>, Vec<Parts>)> {
        self.end_turn()?;
        Ok((self.messages, self.parts))
    }

    /// Decides the channels of a turn's texts once the whole turn is known: an answer ends a turn, so a text before a call
    /// is commentary.
    fn end_turn(&mut self) -> Result<()> {
        let turn = self.turn..self.messages.len();
        self.turn = turn.end;
        let mut before_call = false;
        for i in turn.clone().rev() {
            let (message, parts) = (&mut self.messages[i], &mut self.parts[i]);
            if message.role != "assistant" {
                continue;
            }
            let calls = !message.tool_calls.is_empty();
            before_call |= calls;
            let stops_short = i + 1 == turn.end && !calls && parts.content.is_none();
            let reasons = parts.thinking.is_some();
            if stops_short && (self.purpose == Purpose::Training || !reasons) {
                bail!(
                    "message {}: {}, and no answer or call after it in the same turn",
                    self.numbers[i],
                    if reasons { "reasoning" } else { "no text" }
                );
            }
            let open = before_call || i + 1 < turn.end;
            if open && !is_filled(&parts.content) && (before_call || is_filled(&parts.thinking)) {
                parts.content = None;
                message.content = Value::Null;
            }
            if !before_call || parts.content.is_none() {
                continue;
            }
            match message.channel.as_deref() {
                Some(FINAL) => bail!(
                    "message {}: a final answer with a call of a tool after it in the same turn; what is said \
                     before a call has channel `{COMMENTARY}`, or none",
                    self.numbers[i]
                ),
                None if !calls || is_filled(&parts.thinking) => {
                    message.channel = Some(COMMENTARY.to_owned());
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_filled(part: &Option<Weighted>) -> bool {
    part.as_ref().is_some_and(|part| !part.text.is_empty())
}

/// Appends the text of the next message to the last one; an empty text changes neither text nor weights.
fn append(last: &mut Message, last_parts: &mut Parts, next: &Message, parts: &Parts) -> bool {
    let Some(text) = &parts.content else {
        return true;
    };
    match &mut last_parts.content {
        Some(content) if text.text.is_empty() && !content.text.is_empty() => return true,
        Some(content) if !content.text.is_empty() => content.append(text.clone()),
        content => {
            *content = Some(text.clone());
            last.channel.clone_from(&next.channel);
        }
    }
    let text = last_parts.content.as_ref().map(|c| c.text.as_str());
    last.content = text.map_or(Value::Null, Value::from);
    true
}

/// Adds `next` to `last` if it continues it in the order of harmony (reasoning, text, call). Returns whether it did.
fn join(last: &mut Message, last_parts: &mut Parts, next: &Message, parts: &Parts) -> bool {
    if !last.tool_calls.is_empty() {
        return false;
    }
    let said = is_filled(&last_parts.content) || last.channel.is_some();
    if next.thinking.is_some() && (said || is_filled(&last_parts.thinking)) {
        return false;
    }
    if said && parts.content.is_some() && !goes_on(last, next) {
        return false;
    }
    if next.thinking.is_some() {
        last.thinking.clone_from(&next.thinking);
        last_parts.thinking.clone_from(&parts.thinking);
    }
    append(last, last_parts, next, parts);
    last.tool_calls.clone_from(&next.tool_calls);
    last_parts.call.clone_from(&parts.call);
    true
}

/// Whether a text continues the one before, which ms-swift joins. A text that names its channel is a message of its own.
fn goes_on(last: &Message, next: &Message) -> bool {
    let last_is_open = match last.channel.as_deref() {
        None => true,
        Some(channel) => channel == FINAL && next.tool_calls.is_empty(),
    };
    last_is_open && next.channel.is_none()
}

#[cfg(test)]
mod tests {
    use crate::chat::{
        Chain,
        turns::{Purpose, prepare},
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
        let prepared = prepare(&conversation, &Chain::default(), true, Purpose::Training)?;
        let both = prepared.conversation.messages.iter().zip(&prepared.parts);
        let line = |(message, parts): (&Message, &crate::chat::turns::Parts)| {
            let channel = message.channel.as_deref().unwrap_or("text");
            let texts = [
                ("analysis", &parts.thinking),
                (channel, &parts.content),
                ("call", &parts.call),
            ];
            let text = |(name, part): (&str, &Option<_>)| {
                let part: &crate::chat::weighted::Weighted = part.as_ref()?;
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
        assert_eq!(turn(json!([text(""), call()])).unwrap(), ["call {}"]);
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
