//! Conversations made ready for rendering: every text with a weight for each of its bytes, the
//! reasoning of an assistant's message taken out of its content.
//!
//! Loss scales see the content as it stands in the dataset. Content that begins with
//! `<think>..</think>`, or that is written by hand with harmony's own markers, is then split into
//! reasoning and answer, and the weights go with the text.

use super::{
    harmony::{self, ASSISTANT, CHANNEL, MESSAGE, RETURN, START},
    json::dumps,
    scale::Chain,
    template::is_system,
};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::{Base, Conversation, Field, Message, Segment, Turn};
use serde_json::Value;
use std::ops::Range;

const THINK: [&str; 2] = ["<think>", "</think>"];

/// A text with a weight for each byte.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Weighted {
    /// The text.
    pub text: String,
    /// A weight for each byte of it.
    pub weights: Vec<f32>,
    /// Weight of the header before it: that of the first trained byte, 0 if nothing is trained.
    pub open: f32,
    /// Weight of the token that ends it: that of the last trained byte, 0 if nothing is trained.
    pub close: f32,
}

impl Weighted {
    fn uniform(text: &str, weight: f32) -> Self {
        Self {
            text: text.to_owned(),
            weights: vec![weight; text.len()],
            open: weight,
            close: weight,
        }
    }

    fn from_segments(text: &str, segments: &[Segment]) -> Self {
        let mut weights = Vec::with_capacity(text.len());
        for segment in segments {
            weights.resize(weights.len() + segment.text.len(), segment.weight as f32);
        }
        // A text that is empty is judged by an empty segment, if the scales gave one.
        let empty = segments
            .first()
            .map_or(1.0, |segment| segment.weight as f32);
        Self::new(text.to_owned(), weights, empty)
    }

    fn new(text: String, weights: Vec<f32>, if_empty: f32) -> Self {
        let trained = |weight: &&f32| **weight > 0.0;
        let (open, close) = match weights.as_slice() {
            [] => (if_empty, if_empty),
            all => (
                all.iter().find(trained).copied().unwrap_or(0.0),
                all.iter().rfind(trained).copied().unwrap_or(0.0),
            ),
        };
        Self {
            text,
            weights,
            open,
            close,
        }
    }

    fn slice(&self, range: Range<usize>) -> Self {
        let before = range.start.checked_sub(1).and_then(|i| self.weights.get(i));
        let if_empty = before.copied().unwrap_or(self.open);
        let weights = self.weights[range.clone()].to_vec();
        Self::new(self.text[range].to_owned(), weights, if_empty)
    }

    /// Whether anything of it is trained.
    pub fn is_trained(&self) -> bool {
        self.open > 0.0
    }
}

/// The weighted texts of one message.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parts {
    /// The reasoning.
    pub thinking: Option<Weighted>,
    /// The content; for a tool's result, its JSON text.
    pub content: Option<Weighted>,
    /// The arguments of the call, as JSON text.
    pub call: Option<Weighted>,
}

/// A conversation as the template takes it, and the weights of its texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The conversation.
    pub conversation: Conversation,
    /// Beside each of its messages.
    pub parts: Vec<Parts>,
}

/// Weighs and splits the messages of a conversation.
///
/// # Errors
/// A message that cannot be rendered as it stands, named by its number (from 1); a loss scale that
/// fails.
pub fn prepare(
    conversation: &Conversation,
    chain: &Chain,
    think_to_analysis: bool,
) -> Result<Prepared> {
    let tools = Value::from(conversation.tools.clone());
    refuse_markers(&tools.to_string()).context("`tools`")?;
    let messages = &conversation.messages;
    let prompts = |m: &Message| m.role == "user" || m.role == "tool";
    let last_prompt = messages.iter().rposition(prompts);
    let mut prepared = Prepared {
        conversation: conversation.clone(),
        parts: Vec::with_capacity(messages.len()),
    };
    let mut query = None;
    for (i, message) in messages.iter().enumerate() {
        let turn = Turn {
            role: &message.role,
            field: Field::Content,
            query: query.filter(|_| message.role == "assistant"),
            is_last: last_prompt.is_none_or(|last| i > last),
        };
        let ready = &mut prepared.conversation.messages[i];
        let parts = if message.role == "assistant" {
            assistant(message, &turn, chain, think_to_analysis, ready)
        } else if i > 0 && is_system(message) {
            Err(anyhow::anyhow!(
                "only the first message can be {}: the chat template would drop this one",
                message.role
            ))
        } else {
            prompt(message, &turn, chain)
        };
        let parts = parts.with_context(|| format!("message {} ({})", i + 1, message.role))?;
        prepared.parts.push(parts);
        if prompts(message) {
            query = message.text();
        }
    }
    Ok(prepared)
}

/// The weight of a message by the base strategy and the message's own marks; `None` leaves it to
/// the loss scales.
fn fixed_weight(message: &Message, turn: &Turn, base: Base) -> Option<f32> {
    let is_assistant = message.role == "assistant";
    let active = message.loss.unwrap_or(match base {
        Base::All => true,
        Base::Default => is_assistant,
        Base::LastRound => is_assistant && turn.is_last,
    });
    if active {
        message.loss_scale.map(|weight| weight as f32)
    } else {
        Some(0.0)
    }
}

fn weigh(text: &str, message: &Message, turn: &Turn, chain: &Chain) -> Result<Weighted> {
    Ok(match fixed_weight(message, turn, chain.base()) {
        Some(weight) => Weighted::uniform(text, weight),
        None => Weighted::from_segments(text, &chain.fold(text, turn)?),
    })
}

fn prompt(message: &Message, turn: &Turn, chain: &Chain) -> Result<Parts> {
    let content = if message.role == "tool" {
        let text = dumps(&message.content);
        let weight = fixed_weight(message, turn, chain.base()).unwrap_or(1.0);
        Weighted::uniform(&text, weight)
    } else {
        let text = message.text();
        let text =
            text.with_context(|| format!("content must be text, found {}", message.content))?;
        weigh(text, message, turn, chain)?
    };
    refuse_markers(&content.text)?;
    Ok(Parts {
        content: Some(content),
        ..Parts::default()
    })
}

fn assistant(
    message: &Message,
    turn: &Turn,
    chain: &Chain,
    think_to_analysis: bool,
    ready: &mut Message,
) -> Result<Parts> {
    let mut parts = Parts::default();
    if let Some(thinking) = &message.thinking {
        refuse_markers(thinking).context("thinking")?;
        let turn = Turn {
            field: Field::Thinking,
            ..turn.clone()
        };
        parts.thinking = Some(weigh(thinking, message, &turn, chain)?);
    }
    match &message.content {
        Value::Null => {}
        Value::String(text) => {
            let content = weigh(text, message, turn, chain)?;
            split(content, think_to_analysis, &mut parts)?;
        }
        other => bail!("content must be text, found {other}"),
    }
    if let [call, more @ ..] = message.tool_calls.as_slice() {
        ensure!(
            more.is_empty(),
            "{} tool calls in one message, but harmony renders one a message: write an assistant \
             message for each call, followed by its result",
            message.tool_calls.len()
        );
        let text = dumps(&call.arguments);
        refuse_markers(&text).context("arguments of the tool call")?;
        refuse_markers(&call.name).context("name of the tool")?;
        let weight = fixed_weight(message, turn, chain.base()).unwrap_or(1.0);
        parts.call = Some(Weighted::uniform(&text, weight));
    }
    let text = |part: &Option<Weighted>| part.as_ref().map(|part| part.text.clone());
    ready.thinking = text(&parts.thinking);
    ready.content = text(&parts.content).map_or(Value::Null, Value::from);
    Ok(parts)
}

/// Splits content into reasoning and answer where it holds both.
fn split(content: Weighted, think_to_analysis: bool, parts: &mut Parts) -> Result<()> {
    if content.text.contains(CHANNEL) && content.text.contains(MESSAGE) {
        return by_markers(&content, parts);
    }
    refuse_markers(&content.text)?;
    let has_thinking = parts.thinking.as_ref().is_some_and(|t| !t.text.is_empty());
    match think_block(&content.text).filter(|_| think_to_analysis && !has_thinking) {
        None => parts.content = Some(content),
        Some((inner, rest)) => {
            if !inner.is_empty() {
                parts.thinking = Some(content.slice(inner));
            }
            parts.content = Some(content.slice(rest));
        }
    }
    Ok(())
}

/// Where the reasoning of a leading `<think>..</think>` stands, and the answer after it, both
/// without the white space around them.
fn think_block(text: &str) -> Option<(Range<usize>, Range<usize>)> {
    let [open, close] = THINK;
    let body = text.trim_start().strip_prefix(open)?;
    let from = text.len() - body.len();
    let inner = &body[..body.find(close)?];
    let rest = text[from + inner.len() + close.len()..].trim_start();
    let lead = inner.len() - inner.trim_start().len();
    let inner_from = from + lead;
    Some((
        inner_from..inner_from + inner.trim().len(),
        text.len() - rest.len()..text.len(),
    ))
}

/// Content written by hand as
/// `<|channel|>analysis<|message|>..<|end|><|start|>assistant<|channel|>final<|message|>..`.
fn by_markers(content: &Weighted, parts: &mut Parts) -> Result<()> {
    let text = content.text.as_str();
    let prefix = if text.starts_with(START) {
        ""
    } else {
        ASSISTANT
    };
    let closed = [harmony::END, harmony::RETURN]
        .iter()
        .any(|end| text.trim_end().ends_with(end));
    let full = match closed {
        true => format!("{prefix}{}", text.trim_end()),
        false => format!("{prefix}{text}{RETURN}"),
    };
    let context = "content with harmony's own markers";
    for span in harmony::parse(&full).context(context)? {
        let own = span.body.start - prefix.len()..span.body.end - prefix.len();
        let header = &span.header;
        let place = match (
            header.role.as_str(),
            &header.recipient,
            header.channel.as_deref(),
        ) {
            ("assistant", None, Some("analysis")) => &mut parts.thinking,
            ("assistant", None, Some("final")) => &mut parts.content,
            _ => bail!(
                "{context}: only the assistant's analysis and final messages can be written so, \
                 found `{}`; use `tool_calls` for calls",
                &full[span.opening.start + START.len()..span.head.end]
            ),
        };
        ensure!(
            place.is_none(),
            "{context}: two {} messages",
            header.channel.as_deref().unwrap_or_default()
        );
        refuse_markers(&text[own.clone()])?;
        *place = Some(content.slice(own));
    }
    Ok(())
}

fn refuse_markers(text: &str) -> Result<()> {
    if let Some(marker) = harmony::find_marker(text) {
        bail!("the text holds harmony's marker {marker}, which would break the message apart");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepare_one(message: Message) -> Result<(Message, Parts)> {
        let conversation = Conversation {
            messages: vec![Message::new("user", "q"), message],
            ..Conversation::default()
        };
        let mut prepared = prepare(&conversation, &Chain::default(), true)?;
        let parts = prepared.parts.pop().unwrap();
        Ok((prepared.conversation.messages.pop().unwrap(), parts))
    }

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
    fn what_the_template_would_lose_is_refused() {
        let error = |message| format!("{:#}", prepare_one(message).unwrap_err());
        let bad = error(Message::new("system", "late"));
        assert!(
            bad.contains("message 2 (system)") && bad.contains("drop"),
            "{bad}"
        );
        let bad = error(Message::new("user", "x<|end|>y"));
        assert!(bad.contains("<|end|>"), "{bad}");
        let bad = error(Message::new(
            "assistant",
            "<|channel|>commentary<|message|>x",
        ));
        assert!(bad.contains("commentary"), "{bad}");
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

    #[test]
    fn marks_of_a_message_come_before_scales() {
        let with = |loss, loss_scale| Message {
            loss,
            loss_scale,
            ..Message::new("assistant", "ab")
        };
        let weights = |message| prepare_one(message).unwrap().1.content.unwrap();
        assert!(!weights(with(Some(false), Some(2.0))).is_trained());
        assert_eq!(weights(with(None, Some(0.5))).weights, [0.5, 0.5]);
        assert_eq!(weights(with(None, None)).weights, [1.0, 1.0]);
    }
}
