//! Prepares conversations for rendering: every byte of a text gets a weight, reasoning is taken out of the content of an
//! assistant's message, and the messages of one turn are joined (`chat::join`).
//!
//! Loss scales get the content as it is in the dataset, and a structured call as text (`chat::call`). Later steps
//! ([`split`](super::split), joining, rendering) keep the weights with the text.

use super::{
    answer::answer, join::Joiner, json::dumps, scale::Chain, template::is_system,
    weighted::Weighted,
};
use anyhow::{Context, Result, anyhow, ensure};
use apus_sdk::{Base, Conversation, Field, Message, Turn};

/// Harmony's channel of answers.
pub const FINAL: &str = "final";
/// Harmony's channel of words to the user before a call or an answer.
pub const COMMENTARY: &str = "commentary";

/// What a conversation is prepared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It is trained, so a turn without an answer is a mistake.
    Training,
    /// The model continues it. An answer that was cut off inside its reasoning is a turn, too.
    Prompt,
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

/// A conversation as the template gets it, with the weights of its texts.
#[derive(Debug, Clone, PartialEq)]
pub struct PreparedConversation {
    /// The conversation.
    pub conversation: Conversation,
    /// The weighted texts of each message.
    pub parts: Vec<Parts>,
    /// Whether a `<think>` block was taken out of an answer.
    pub moved_thinking: bool,
}

/// Gives weights to the messages of a conversation, splits and joins them.
///
/// # Errors
/// A message cannot be rendered, which the error names by its number (from 1), or a loss scale fails.
pub fn prepare(
    conversation: &Conversation,
    chain: &Chain,
    think_to_analysis: bool,
    purpose: Purpose,
) -> Result<PreparedConversation> {
    let messages = &conversation.messages;
    let prompts = |m: &Message| m.role == "user" || m.role == "tool";
    let last_prompt = messages.iter().rposition(prompts);
    let mut joiner = Joiner::new(purpose);
    let mut moved_thinking = false;
    let mut query: Option<String> = None;
    for (i, message) in messages.iter().enumerate() {
        let turn = Turn {
            role: &message.role,
            field: Field::Content,
            query: query.as_deref().filter(|_| message.role == "assistant"),
            is_last: last_prompt.is_none_or(|last| i > last),
        };
        let entries = if message.role == "assistant" {
            answer(message, &turn, chain, think_to_analysis).map(|(entries, moved)| {
                moved_thinking |= moved;
                entries
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
            prompt(message, &turn, chain).map(|parts| vec![(message.clone(), parts)])
        };
        let entries = entries.with_context(|| format!("message {} ({})", i + 1, message.role))?;
        for (message, parts) in entries {
            joiner.push(i + 1, message, parts)?;
        }
        if prompts(message) {
            query = joiner.last_text().map(str::to_owned);
        }
    }
    let (messages, parts) = joiner.finish()?;
    Ok(PreparedConversation {
        conversation: Conversation {
            messages,
            ..conversation.clone()
        },
        parts,
        moved_thinking,
    })
}

/// The weight of a message by the base strategy and the message's own marks; `None` leaves it to
/// the loss scales.
pub(super) fn fixed_weight(message: &Message, turn: &Turn, base: Base) -> Result<Option<f32>> {
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

/// Gives a text the weights that the marks of its message or the loss scales say.
pub(super) fn weigh(text: &str, message: &Message, turn: &Turn, chain: &Chain) -> Result<Weighted> {
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
    Ok(Parts {
        content: Some(content),
        ..Parts::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn prepare_one(message: Message) -> Result<(Message, Parts)> {
        let conversation = Conversation {
            messages: vec![Message::new("user", "q"), message],
            ..Conversation::default()
        };
        let mut prepared = prepare(&conversation, &Chain::default(), true, Purpose::Training)?;
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
        assert_eq!(parts.call.unwrap().text, "{\"x\": 1}");
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
        let prepared = prepare(&conversation, &Chain::default(), true, Purpose::Training).unwrap();
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
