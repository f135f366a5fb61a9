//! A text of a rendered conversation and what the renderer wrote around it.

use std::ops::Range;

/// A text of a message in a rendered conversation, with the byte ranges of what stands around it. Without gaps they are
/// opening, header, body and stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FramedText {
    /// Whose text it is.
    pub author: Author,
    /// What kind of text it is.
    pub kind: TextKind,
    /// What a prompt ends with when the model is asked for this message; empty if the text is not the first of its frame.
    pub opening: Range<usize>,
    /// The rest of what stands before the text; the model writes it itself.
    pub header: Range<usize>,
    /// The text.
    pub body: Range<usize>,
    /// What ends the text.
    pub stop: Range<usize>,
    /// What comes after it.
    pub end: TextEnd,
}

/// Whose message a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// The renderer's: it is in no message of the conversation.
    Renderer,
    /// The instructions of the conversation's first message, if that has any.
    Instructions,
    /// The user.
    User,
    /// A tool, whose result it is.
    Tool,
    /// The assistant.
    Assistant,
}

/// The kind of a text of the assistant; others are [`TextKind::Text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextKind {
    /// Reasoning.
    Reasoning,
    /// An answer, or words before a call.
    Text,
    /// The arguments of a call, or the whole call.
    Call,
}

/// What comes after the stop of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextEnd {
    /// The next text, if there is one. The stop is what the model writes there.
    Plain,
    /// Another message of the same turn, so that the model writes its opening, too.
    SameTurn,
    /// The next turn: the stop stands there because the conversation goes on. A model that answers has to write this
    /// control token.
    NextTurn(&'static str),
}
