//! Lists the texts of the assistant's messages in the order in which renderers write them.

use super::{harmony::Span, turns::PreparedConversation, weighted::Weighted};
use std::collections::VecDeque;

/// One text of the assistant.
#[derive(Debug, Clone)]
pub struct AssistantText<'a> {
    /// The index of its message.
    pub message: usize,
    /// The text with its weights.
    pub part: &'a Weighted,
    kind: TextKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TextKind {
    Analysis,
    /// A text before a call in the same message, whose channel the renderer chooses.
    BeforeCall,
    /// An answer, or commentary.
    Text,
    Call,
}

/// All texts of the assistant.
pub fn all(prepared: &PreparedConversation) -> VecDeque<AssistantText<'_>> {
    let mut texts = VecDeque::new();
    let messages = prepared.conversation.messages.iter();
    for (message, (own, parts)) in messages.zip(&prepared.parts).enumerate() {
        if own.role != "assistant" {
            continue;
        }
        let content = match (&own.channel, &parts.call) {
            (None, Some(_)) => TextKind::BeforeCall,
            _ => TextKind::Text,
        };
        let all = [
            (TextKind::Analysis, &parts.thinking),
            (content, &parts.content),
            (TextKind::Call, &parts.call),
        ];
        let filled = |kind, part: &Weighted| {
            kind == TextKind::Call || parts.call.is_none() || !part.text.is_empty()
        };
        texts.extend(all.into_iter().filter_map(|(kind, part)| {
            let part = part.as_ref().filter(|part| filled(kind, part))?;
            Some(AssistantText {
                message,
                part,
                kind,
            })
        }));
    }
    texts
}

impl AssistantText<'_> {
    /// Whether a span holds this text.
    pub fn is_in(&self, span: &Span, body: &str) -> bool {
        let analysis = span.header.channel.as_deref() == Some("analysis");
        match (self.kind, &span.header.recipient) {
            (TextKind::Call, recipient) => recipient.is_some(),
            (_, Some(_)) => false,
            (TextKind::Analysis, None) => analysis && body.contains(&self.part.text),
            (TextKind::BeforeCall, None) => true,
            (TextKind::Text, None) => !analysis,
        }
    }

    /// Whether it is rendered as reasoning, which templates leave out of earlier turns.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.kind, TextKind::Analysis | TextKind::BeforeCall)
    }

    /// A word for it, for messages.
    pub fn noun(&self) -> &'static str {
        match self.kind {
            TextKind::Analysis => "reasoning",
            TextKind::BeforeCall | TextKind::Text => "text",
            TextKind::Call => "call",
        }
    }
}
