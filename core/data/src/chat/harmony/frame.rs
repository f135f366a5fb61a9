//! One message in its frame, as both renderers write it.

use super::{CHANNEL, FUNCTIONS, MESSAGE, START};
use crate::chat::rendered::Rendered;

/// What stands between `<|start|>` and `<|message|>`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head<'a> {
    /// A role, or the name of a tool.
    pub author: String,
    /// Whom the message is for.
    pub recipient: Option<String>,
    /// `analysis`, `commentary` or `final`.
    pub channel: Option<&'a str>,
    /// Type of the body.
    pub content_type: Option<&'a str>,
}

impl<'a> Head<'a> {
    /// Of a message that only says whose it is.
    pub fn of(author: &str) -> Self {
        Self {
            author: author.to_owned(),
            ..Self::default()
        }
    }

    /// Of an assistant's message in a channel.
    pub fn assistant(channel: &'a str) -> Self {
        Self {
            channel: Some(channel),
            ..Self::of("assistant")
        }
    }

    /// Of a call of a function.
    pub fn call(name: &str) -> Self {
        Self {
            recipient: Some(format!("{FUNCTIONS}{name}")),
            content_type: Some("json"),
            ..Self::assistant("commentary")
        }
    }

    /// Of what a function gave.
    pub fn result(name: &str) -> Self {
        Self {
            author: format!("{FUNCTIONS}{name}"),
            recipient: Some("assistant".to_owned()),
            channel: Some("commentary"),
            content_type: None,
        }
    }
}

/// Adds a message that ends with this token.
pub fn message(out: &mut Rendered, head: &Head, body: &str, end: &str) {
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
