//! Conversations made ready for rendering: every text with a weight for each of its bytes, the
//! reasoning of an assistant's message taken out of its content, messages that follow one of the
//! same role joined.
//!
//! Loss scales see the content as it stands in the dataset, and a structured call written out
//! ([`call`](super::call)); what happens to it afterwards
//! ([`split`](super::split), joining, rendering) takes the weights along.

use super::{
    call,
    json::dumps,
    scale::Chain,
    split::{refuse_markers, split},
    template::is_system,
    weighted::Weighted,
};
use anyhow::{Context, Result, anyhow, bail, ensure};
use apus_sdk::{Base, Conversation, Field, Message, Turn};
use serde_json::Value;

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

impl Parts {
    /// Whether there is reasoning in them; beside a call, content is that too.
    pub fn reasons(&self) -> bool {
        let filled = |part: &Option<Weighted>| part.as_ref().is_some_and(|p| !p.text.is_empty());
        filled(&self.thinking) || (self.call.is_some() && filled(&self.content))
    }
}

/// A conversation as the template takes it, and the weights of its texts.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The conversation.
    pub conversation: Conversation,
    /// Beside each of its messages.
    pub parts: Vec<Parts>,
    /// Whether a `<think>` block was taken out of an answer.
    pub moved_thinking: bool,
}

/// Weighs, splits and joins the messages of a conversation.
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
        conversation: Conversation {
            messages: Vec::with_capacity(messages.len()),
            ..conversation.clone()
        },
        parts: Vec::with_capacity(messages.len()),
        moved_thinking: false,
    };
    let mut query: Option<String> = None;
    for (i, message) in messages.iter().enumerate() {
        let turn = Turn {
            role: &message.role,
            field: Field::Content,
            query: query.as_deref().filter(|_| message.role == "assistant"),
            is_last: last_prompt.is_none_or(|last| i > last),
        };
        let mut ready = message.clone();
        let parts = if message.role == "assistant" {
            assistant(message, &turn, chain, think_to_analysis, &mut ready).map(|(parts, moved)| {
                prepared.moved_thinking |= moved;
                parts
            })
        } else if !is_system(message) && !prompts(message) {
            Err(anyhow!(
                "unknown role, expected system, developer, user, assistant or tool"
            ))
        } else if i > 0 && is_system(message) {
            Err(anyhow!(
                "only the first message can be {}: the chat template would drop this one",
                message.role
            ))
        } else {
            prompt(message, &turn, chain)
        };
        let parts = parts.with_context(|| format!("message {} ({})", i + 1, message.role))?;
        prepared.push(ready, parts);
        if prompts(message) {
            let last = prepared.conversation.messages.last();
            query = last.and_then(Message::text).map(str::to_owned);
        }
    }
    Ok(prepared)
}

impl Prepared {
    /// Adds a message; one that goes on where the last one of its role stopped is joined with it.
    fn push(&mut self, message: Message, parts: Parts) {
        if let (Some(last), Some(last_parts)) =
            (self.conversation.messages.last_mut(), self.parts.last_mut())
            && goes_on(last, &message)
            && let (Some(content), Some(next)) = (last_parts.content.as_mut(), &parts.content)
        {
            content.append(next.clone());
            last.content = Value::from(content.text.as_str());
            return;
        }
        self.conversation.messages.push(message);
        self.parts.push(parts);
    }
}

/// Whether a message is the rest of the one before, as ms-swift takes it: plain text after plain
/// text of the same speaker.
fn goes_on(last: &Message, next: &Message) -> bool {
    let speaks = next.role == "user" || next.role == "assistant";
    let plain = last.tool_calls.is_empty() && next.tool_calls.is_empty();
    speaks && last.role == next.role && plain && next.thinking.is_none()
}

/// The weight of a message by the base strategy and the message's own marks; `None` leaves it to
/// the loss scales.
fn fixed_weight(message: &Message, turn: &Turn, base: Base) -> Result<Option<f32>> {
    let is_assistant = message.role == "assistant";
    let active = message.loss.unwrap_or(match base {
        Base::All => true,
        Base::Default => is_assistant,
        Base::LastRound => is_assistant && turn.is_last,
    });
    if !active {
        return Ok(Some(0.0));
    }
    let Some(weight) = message.loss_scale else {
        return Ok(None);
    };
    ensure!(
        weight >= 0.0 && (weight as f32).is_finite(),
        "`loss_scale` is {weight}, expected a number from 0 to {:e}",
        f32::MAX
    );
    Ok(Some(weight as f32))
}

fn weigh(text: &str, message: &Message, turn: &Turn, chain: &Chain) -> Result<Weighted> {
    Ok(match fixed_weight(message, turn, chain.base())? {
        Some(weight) => Weighted::uniform(text, weight),
        None => Weighted::from_segments(text, &chain.fold(text, turn)?),
    })
}

fn prompt(message: &Message, turn: &Turn, chain: &Chain) -> Result<Parts> {
    let content = if message.role == "tool" {
        let text = dumps(&message.content);
        let weight = fixed_weight(message, turn, chain.base())?.unwrap_or(1.0);
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
) -> Result<(Parts, bool)> {
    let mut parts = Parts::default();
    let mut moved = false;
    if let Some(thinking) = &message.thinking {
        refuse_markers(thinking).context("thinking")?;
        let turn = Turn {
            field: Field::Thinking,
            ..turn.clone()
        };
        parts.thinking = Some(weigh(thinking, message, &turn, chain)?);
    }
    if let [one, more @ ..] = message.tool_calls.as_slice() {
        ensure!(
            more.is_empty(),
            "{} tool calls in one message, but harmony renders one a message: write an assistant \
             message for each call, followed by its result",
            message.tool_calls.len()
        );
        let text = dumps(&one.arguments);
        refuse_markers(&text).context("arguments of the tool call")?;
        ensure!(
            !one.name.is_empty() && !one.name.contains([' ', '<', '\n', '\t', '\r']),
            "a tool is called `{}`; names are not empty and hold neither white space nor `<`",
            one.name
        );
        parts.call = Some(match fixed_weight(message, turn, chain.base())? {
            Some(weight) => Weighted::uniform(&text, weight),
            None => call::weigh(&one.name, &text, turn, chain)?,
        });
    }
    match &message.content {
        Value::Null => {}
        Value::String(text) => {
            let content = weigh(text, message, turn, chain)?;
            moved = split(content, think_to_analysis, &mut parts, ready)?;
        }
        other => bail!("content must be text, found {other}"),
    }
    let text = |part: &Option<Weighted>| part.as_ref().map(|part| part.text.clone());
    ready.thinking = text(&parts.thinking);
    ready.content = text(&parts.content).map_or(Value::Null, Value::from);
    Ok((parts, moved))
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
    fn a_call_written_by_hand() {
        let text = "<|channel|>analysis<|message|>t<|end|><|start|>assistant to=functions.f\
                    <|channel|>commentary json<|message|>{\"x\":1}<|call|>";
        let (message, parts) = prepare_one(Message::new("assistant", text)).unwrap();
        assert_eq!(message.thinking.as_deref(), Some("t"));
        assert!(message.content.is_null());
        assert_eq!(message.tool_calls[0].name, "f");
        assert_eq!(message.tool_calls[0].arguments["x"], 1);
        assert_eq!(parts.call.unwrap().text, "{\"x\": 1}");
        let broken = text.replace("{\"x\":1}", "{x}");
        let bad = prepare_one(Message::new("assistant", broken)).unwrap_err();
        assert!(format!("{bad:#}").contains("must be JSON"), "{bad:#}");
    }

    #[test]
    fn messages_of_one_speaker_are_joined() {
        let weight = |text: &str, loss_scale| Message {
            loss_scale: Some(loss_scale),
            ..Message::new("assistant", text)
        };
        let conversation = Conversation {
            messages: vec![
                Message::new("user", "a"),
                Message::new("user", "b"),
                weight("c", 0.0),
                weight("d", 2.0),
                weight("e", 0.0),
            ],
            ..Conversation::default()
        };
        let prepared = prepare(&conversation, &Chain::default(), true).unwrap();
        let messages = &prepared.conversation.messages;
        let texts: Vec<_> = messages.iter().map(|m| m.text().unwrap()).collect();
        assert_eq!(texts, ["ab", "cde"]);
        let answer = prepared.parts[1].content.clone().unwrap();
        assert_eq!(answer.weights, [0.0, 2.0, 0.0]);
        assert_eq!((answer.open, answer.close), (0.0, 0.0));
        assert!(answer.is_trained());
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
        let preamble = "<|channel|>commentary<|message|>x";
        let bad = error(Message::new("assistant", preamble));
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
