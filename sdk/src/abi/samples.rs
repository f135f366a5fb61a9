//! Samples on their way from a format to the host, ten thousands a second: what nearly every message has, role and texts, crosses as
//! it is; whatever else there is of a sample crosses as JSON, where a new field breaks nobody.

use super::object::to_json;
use crate::{Conversation, Message, Result, Sample};
use abi_stable::StableAbi;
use abi_stable::std_types::{ROption, RString, RVec};
use serde_json::Value;

/// A [`Sample`].
#[repr(C)]
#[derive(StableAbi)]
pub struct WireSample {
    messages: RVec<WireMessage>,
    /// The sample as JSON text with no messages, or nothing for a conversation of nothing but messages.
    rest: RString,
}

/// A [`Message`].
#[repr(C)]
#[derive(StableAbi)]
pub struct WireMessage {
    role: RString,
    /// The content that is text.
    content: ROption<RString>,
    thinking: ROption<RString>,
    /// The message as JSON text without what stands above, or nothing if that is all.
    rest: RString,
}

pub(super) fn give(samples: Vec<Sample>) -> Result<RVec<WireSample>> {
    samples.into_iter().map(WireSample::give).collect()
}

pub(super) fn take(samples: RVec<WireSample>) -> serde_json::Result<Vec<Sample>> {
    samples.into_iter().map(WireSample::take).collect()
}

impl WireSample {
    fn give(mut sample: Sample) -> Result<Self> {
        let messages = match &mut sample {
            Sample::Conversation(conversation) => std::mem::take(&mut conversation.messages),
            Sample::Tokens(_) => Vec::new(),
        };
        let nothing =
            matches!(&sample, Sample::Conversation(rest) if *rest == Conversation::default());
        Ok(Self {
            messages: messages
                .into_iter()
                .map(WireMessage::give)
                .collect::<Result<_>>()?,
            rest: match nothing {
                true => RString::new(),
                false => to_json(&sample)?,
            },
        })
    }

    fn take(self) -> serde_json::Result<Sample> {
        let mut sample = match self.rest.as_str() {
            "" => Sample::Conversation(Conversation::default()),
            rest => serde_json::from_str(rest)?,
        };
        if let Sample::Conversation(conversation) = &mut sample {
            let messages = self.messages.into_iter().map(WireMessage::take);
            conversation.messages = messages.collect::<serde_json::Result<_>>()?;
        }
        Ok(sample)
    }
}

impl WireMessage {
    fn give(mut message: Message) -> Result<Self> {
        let role = std::mem::take(&mut message.role).into();
        let content = match std::mem::take(&mut message.content) {
            Value::String(text) => ROption::RSome(text.into()),
            other => {
                message.content = other;
                ROption::RNone
            }
        };
        let thinking = message.thinking.take().map(RString::from).into();
        Ok(Self {
            role,
            content,
            thinking,
            rest: match message == Message::default() {
                true => RString::new(),
                false => to_json(&message)?,
            },
        })
    }

    fn take(self) -> serde_json::Result<Message> {
        let mut message = match self.rest.as_str() {
            "" => Message::default(),
            rest => serde_json::from_str(rest)?,
        };
        message.role = self.role.into_string();
        if let ROption::RSome(text) = self.content {
            message.content = Value::String(text.into_string());
        }
        message.thinking = self.thinking.map(RString::into_string).into_option();
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TokenRow, ToolCall};
    use serde_json::json;

    /// Every field of a sample once as it is by default and once otherwise.
    #[test]
    fn samples_arrive_as_they_were_sent() {
        let full = Message {
            role: "assistant".to_owned(),
            content: "text".into(),
            channel: Some("final".to_owned()),
            thinking: Some(String::new()),
            tool_calls: vec![ToolCall {
                name: "f".to_owned(),
                arguments: json!({"a": [1.5, null]}),
            }],
            loss: Some(false),
            loss_scale: Some(0.5),
        };
        let messages = vec![
            Message::default(),
            Message::new("user", ""),
            Message {
                thinking: Some("so".to_owned()),
                ..Message::new("assistant", "\u{1F600}\0")
            },
            Message {
                content: Value::Null,
                ..full.clone()
            },
            Message {
                content: json!([{"text": "part"}]),
                ..Message::default()
            },
            full,
        ];
        let tokens = TokenRow {
            input_ids: vec![1, 2],
            labels: vec![-100, 2],
            loss_scale: Some(vec![1.0, 0.5]),
            channel: Some("a".to_owned()),
        };
        let samples = vec![
            Sample::Conversation(Conversation::default()),
            Sample::Conversation(Conversation::new(messages.clone())),
            Sample::Conversation(Conversation {
                messages,
                tools: vec![json!({"name": "f"})],
                template_kwargs: json!({"reasoning_effort": "high"})
                    .as_object()
                    .unwrap()
                    .clone(),
                channel: Some("b".to_owned()),
            }),
            TokenRow::default().into(),
            tokens.into(),
        ];
        let wire = give(samples.clone()).unwrap();
        let plain = |at: usize| wire[at].rest.is_empty();
        assert_eq!(
            [0, 1, 2, 3, 4].map(plain),
            [true, true, false, false, false]
        );
        assert_eq!(take(wire).unwrap(), samples);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let mut wire = give(vec![Conversation::default().into()]).unwrap();
        wire[0].rest = "{".into();
        assert!(take(wire).is_err());
    }
}
