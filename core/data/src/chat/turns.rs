//! Prepares conversations for rendering: every byte of a text gets a weight, an answer is split into the messages that it
//! is, and the messages of one turn are joined (`chat::join`).
//!
//! Loss scales get the content as it is in the dataset, and a structured call as text (`chat::call`). Later steps
//! (splitting, joining, rendering) keep the weights with the text. How an answer is split and a turn is joined is up to the
//! [`Dialect`].

use super::{
    dialect::Dialect,
    folds::OfRow,
    join::Joiner,
    scale::{Chain, Place},
    template::is_system,
    tokenizer::Tokenizer,
    weigh,
    weighted::{Parts, WeightedMessage},
};
use anyhow::{Context, Result, anyhow};
use apus_sdk::{Conversation, Field, Message, Turn};

/// What a conversation is prepared for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It is trained, so a turn without an answer is a mistake.
    Training,
    /// The model continues it. An answer that was cut off inside its reasoning is a turn, too.
    Prompt,
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

/// Gives weights to the messages of a conversation, splits and joins them. `row` is its row, if it comes of one; the
/// tokenizer counts tokens for scales that ask how many there are.
///
/// # Errors
/// A message cannot be rendered, which the error names by its number (from 1), or a loss scale fails.
pub fn prepare(
    conversation: &Conversation,
    chain: &Chain,
    dialect: &dyn Dialect,
    think_to_analysis: bool,
    purpose: Purpose,
    (row, tokenizer): (OfRow, Option<&Tokenizer>),
) -> Result<PreparedConversation> {
    let messages = &conversation.messages;
    let prompts = |m: &Message| m.role == "user" || m.role == "tool";
    let last_prompt = messages.iter().rposition(prompts);
    let mut joiner = Joiner::new(dialect, purpose);
    let mut moved_thinking = false;
    let mut query: Option<String> = None;
    for (i, message) in messages.iter().enumerate() {
        let turn = Turn {
            role: &message.role,
            field: Field::Content,
            query: query.as_deref().filter(|_| message.role == "assistant"),
            is_last: last_prompt.is_none_or(|last| i > last),
        };
        let place = Place {
            turn: &turn,
            message: i,
            messages: messages.len(),
            channel: conversation.channel.as_deref(),
            row: row.text,
            folds: row.folds,
            tokenizer,
        };
        let written = if message.role == "assistant" {
            let split = weigh::answer(i + 1, message, &place, chain)
                .and_then(|answer| dialect.split(answer, think_to_analysis));
            split.map(|split| {
                moved_thinking |= split.moved_thinking;
                split.messages
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
            weigh::prompt(i + 1, message, &place, chain).map(|prompt| vec![prompt])
        };
        let written = written.with_context(|| format!("message {} ({})", i + 1, message.role))?;
        for message in written {
            joiner.push(message)?;
        }
        if prompts(message) {
            query = joiner.last_text().map(str::to_owned);
        }
    }
    let split = |weighted: WeightedMessage| (weighted.message, weighted.parts);
    let (messages, parts) = joiner.finish()?.into_iter().map(split).unzip();
    Ok(PreparedConversation {
        conversation: Conversation {
            messages,
            ..conversation.clone()
        },
        parts,
        moved_thinking,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::chat::dialect::harmony::Harmony;

    /// Prepares the answer to a question.
    pub(crate) fn prepare_one(message: Message) -> Result<(Message, Parts)> {
        let conversation = Conversation {
            messages: vec![Message::new("user", "q"), message],
            ..Conversation::default()
        };
        let mut prepared = prepare(
            &conversation,
            &Chain::default(),
            &Harmony,
            true,
            Purpose::Training,
            (OfRow::default(), None),
        )?;
        let parts = prepared.parts.pop().unwrap();
        Ok((prepared.conversation.messages.pop().unwrap(), parts))
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
        let prepared = prepare(
            &conversation,
            &Chain::default(),
            &Harmony,
            true,
            Purpose::Training,
            (OfRow::default(), None),
        )
        .unwrap();
        let messages = &prepared.conversation.messages;
        let texts: Vec<_> = messages.iter().map(|m| m.text().unwrap()).collect();
        assert_eq!(texts, ["ab", "cde"]);
        let answer = prepared.parts[1].content.clone().unwrap();
        assert_eq!(answer.weights, [0.0, 2.0, 0.0]);
        assert_eq!((answer.open, answer.close), (0.0, 0.0));
        assert!(answer.is_trained());
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
