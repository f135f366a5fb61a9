//! The texts of an assistant's messages, in the order in which renderers write them.

use super::{harmony::Span, turns::Prepared, weighted::Weighted};
use std::collections::VecDeque;

/// One text of the assistant's.
#[derive(Debug, Clone)]
pub struct Slot<'a> {
    /// The index of its message.
    pub message: usize,
    /// The text with its weights.
    pub part: &'a Weighted,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Analysis,
    /// Words before a call in the same message, whose channel the dataset leaves to the renderer.
    BeforeCall,
    /// An answer, or commentary.
    Text,
    Call,
}

/// All of them.
pub fn all(prepared: &Prepared) -> VecDeque<Slot<'_>> {
    let mut slots = VecDeque::new();
    let messages = prepared.conversation.messages.iter();
    for (message, (own, parts)) in messages.zip(&prepared.parts).enumerate() {
        if own.role != "assistant" {
            continue;
        }
        let content = match (&own.channel, &parts.call) {
            (None, Some(_)) => Kind::BeforeCall,
            _ => Kind::Text,
        };
        let all = [
            (Kind::Analysis, &parts.thinking),
            (content, &parts.content),
            (Kind::Call, &parts.call),
        ];
        let filled = |kind, part: &Weighted| {
            kind == Kind::Call || parts.call.is_none() || !part.text.is_empty()
        };
        slots.extend(all.into_iter().filter_map(|(kind, part)| {
            let part = part.as_ref().filter(|part| filled(kind, part))?;
            Some(Slot {
                message,
                part,
                kind,
            })
        }));
    }
    slots
}

impl Slot<'_> {
    /// Whether a span holds this text.
    pub fn fits(&self, span: &Span, body: &str) -> bool {
        let analysis = span.header.channel.as_deref() == Some("analysis");
        match (self.kind, &span.header.recipient) {
            (Kind::Call, recipient) => recipient.is_some(),
            (_, Some(_)) => false,
            (Kind::Analysis, None) => analysis && body.contains(&self.part.text),
            (Kind::BeforeCall, None) => true,
            (Kind::Text, None) => !analysis,
        }
    }

    /// Whether it is rendered as reasoning, which templates leave out of earlier turns.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.kind, Kind::Analysis | Kind::BeforeCall)
    }

    /// What it is, for messages.
    pub fn what(&self) -> &'static str {
        match self.kind {
            Kind::Analysis => "reasoning",
            Kind::BeforeCall | Kind::Text => "text",
            Kind::Call => "call",
        }
    }
}
