//! Writes one message in its frame, which both renderers do alike.

use super::{CHANNEL, COMMENTARY, FUNCTIONS, MESSAGE, START};
use crate::chat::rendered::Rendered;

/// The header of a message that is written, between `<|start|>` and `<|message|>`; [`super::Header`] is one that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FrameHeader<'a> {
    /// A role, or the name of a tool.
    pub author: String,
    /// Whom the message is for.
    pub recipient: Option<String>,
    /// `analysis`, `commentary` or `final`.
    pub channel: Option<&'a str>,
    /// The type of the body.
    pub content_type: Option<&'a str>,
}

impl<'a> FrameHeader<'a> {
    /// The header of a message with nothing but an author.
    pub fn of(author: &str) -> Self {
        Self {
            author: author.to_owned(),
            ..Self::default()
        }
    }

    /// The header of an assistant's message in a channel.
    pub fn assistant(channel: &'a str) -> Self {
        Self {
            channel: Some(channel),
            ..Self::of("assistant")
        }
    }

    /// The header of a call of a function.
    pub fn call(name: &str) -> Self {
        Self {
            recipient: Some(format!("{FUNCTIONS}{name}")),
            content_type: Some("json"),
            ..Self::assistant(COMMENTARY)
        }
    }

    /// The header of a function's result.
    pub fn result(name: &str) -> Self {
        Self {
            author: format!("{FUNCTIONS}{name}"),
            recipient: Some("assistant".to_owned()),
            channel: Some(COMMENTARY),
            content_type: None,
        }
    }
}

/// Adds a message that ends with this token.
pub fn message(out: &mut Rendered, head: &FrameHeader, body: &str, end: &str) {
    out.mark(START);
    out.text(&head.author);
    if let Some(recipient) = &head.recipient {
        out.text(" to=");
        out.text(recipient);
    }
    if let Some(channel) = head.channel {
        out.mark(CHANNEL);
        out.text(channel);
    }
    if let Some(kind) = head.content_type {
        out.text(" ");
        out.text(kind);
    }
    out.mark(MESSAGE);
    out.text(body);
    out.mark(end);
}

/// Adds the opening of an assistant's message, for the model to go on from.
pub fn prompt(out: &mut Rendered) {
    out.mark(START);
    out.text("assistant");
}
