//! Joins messages of one speaker that stand one after another.
//!
//! Datasets write a turn in several ways: reasoning, words to the user and call in one message, or each in
//! a message of its own; a text in pieces, which ms-swift joins. Here they become the same messages. Which messages a turn
//! of the assistant consists of is up to the [`Dialect`]. The marks of a message (`loss`, `loss_scale`) are weights already
//! and stay with its text.

use super::{dialect::Dialect, turns::Purpose, weighted::WeightedMessage};
use anyhow::Result;

/// Joins messages one after another.
pub struct Joiner<'a> {
    dialect: &'a dyn Dialect,
    purpose: Purpose,
    messages: Vec<WeightedMessage>,
    /// The index at which the messages of the last speaker begin.
    turn: usize,
}

impl<'a> Joiner<'a> {
    /// Makes a joiner without messages.
    pub fn new(dialect: &'a dyn Dialect, purpose: Purpose) -> Self {
        Self {
            dialect,
            purpose,
            messages: Vec::new(),
            turn: 0,
        }
    }

    /// Adds the next message.
    ///
    /// # Errors
    /// The dialect cannot write the turn of the assistant before it.
    pub fn push(&mut self, next: WeightedMessage) -> Result<()> {
        let role = &next.message.role;
        if self
            .messages
            .last()
            .is_some_and(|l| l.message.role != *role)
        {
            self.end_turn()?;
        }
        match self.messages[self.turn..].last_mut() {
            Some(last) if role == "user" => last.append_content(&next),
            _ => self.messages.push(next),
        }
        Ok(())
    }

    /// The text of the last message, if it has one.
    pub fn last_text(&self) -> Option<&str> {
        self.messages.last().and_then(|last| last.message.text())
    }

    /// The messages with their texts.
    ///
    /// # Errors
    /// The dialect cannot write the last turn of the assistant.
    pub fn finish(mut self) -> Result<Vec<WeightedMessage>> {
        self.end_turn()?;
        Ok(self.messages)
    }

    fn end_turn(&mut self) -> Result<()> {
        let turn = self.messages.split_off(self.turn);
        self.messages.extend(match turn.first() {
            Some(first) if first.message.role == "assistant" => {
                self.dialect.join(turn, self.purpose)?
            }
            _ => turn,
        });
        self.turn = self.messages.len();
        Ok(())
    }
}
