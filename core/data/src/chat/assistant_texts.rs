//! Lists the texts of the assistant's messages in the order in which renderers write them.

use super::{dialect::TextKind, turns::PreparedConversation, weighted::Weighted};
use std::collections::VecDeque;

/// One text of the assistant.
#[derive(Debug, Clone)]
pub struct AssistantText<'a> {
    /// The index of its message.
    pub message: usize,
    /// The text with its weights.
    pub part: &'a Weighted,
    kind: TextKind,
    may_be_reasoning: bool,
}

/// All texts of the assistant.
pub fn all(prepared: &PreparedConversation) -> VecDeque<AssistantText<'_>> {
    let mut texts = VecDeque::new();
    let messages = prepared.conversation.messages.iter();
    for (message, (own, parts)) in messages.zip(&prepared.parts).enumerate() {
        if own.role != "assistant" {
            continue;
        }
        let thinking = parts
            .thinking
            .iter()
            .map(|part| (TextKind::Reasoning, part));
        let content = parts.content.iter().map(|part| (TextKind::Text, part));
        let calls = parts.calls.iter().map(|part| (TextKind::Call, part));
        for (kind, part) in thinking.chain(content).chain(calls) {
            // Beside a call, an empty text is not written.
            if kind == TextKind::Call || parts.calls.is_empty() || !part.text.is_empty() {
                texts.push_back(AssistantText {
                    message,
                    part,
                    kind,
                    may_be_reasoning: kind == TextKind::Text && parts.content_may_be_reasoning,
                });
            }
        }
    }
    texts
}

impl AssistantText<'_> {
    /// Whether a rendered text of this kind holds this text.
    pub fn is_in(&self, kind: TextKind, body: &str) -> bool {
        match (self.kind, kind) {
            (TextKind::Call, TextKind::Call) => true,
            (TextKind::Call, _) | (_, TextKind::Call) => false,
            _ if self.may_be_reasoning => true,
            (TextKind::Reasoning, TextKind::Reasoning) => body.contains(&self.part.text),
            (own, kind) => own == kind,
        }
    }

    /// Whether it is rendered as reasoning, which templates leave out of earlier turns.
    pub fn is_reasoning(&self) -> bool {
        self.kind == TextKind::Reasoning || self.may_be_reasoning
    }

    /// A word for it, for messages.
    pub fn noun(&self) -> &'static str {
        match self.kind {
            TextKind::Reasoning => "reasoning",
            TextKind::Text => "text",
            TextKind::Call => "call",
        }
    }
}
