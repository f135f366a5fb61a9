//! OpenAI's harmony format, written and read: `<|start|>header<|message|>body<|end|>`.

mod completion;
mod parse;
mod render;
mod tools;

pub use completion::{Completion, Part, parse_completion};
pub use parse::{Header, Span, parse};
pub use render::render;

/// Opens a message.
pub const START: &str = "<|start|>";
/// Separates header and body.
pub const MESSAGE: &str = "<|message|>";
/// Names the channel inside a header.
pub const CHANNEL: &str = "<|channel|>";
/// Names the type of the body inside a header.
pub const CONSTRAIN: &str = "<|constrain|>";
/// Ends a message.
pub const END: &str = "<|end|>";
/// Ends a message and the generation.
pub const RETURN: &str = "<|return|>";
/// Ends a call of a tool and the generation.
pub const CALL: &str = "<|call|>";
/// Opens an assistant's message; a prompt ends with it.
pub const ASSISTANT: &str = "<|start|>assistant";

/// The markers that may not stand inside a message.
pub const MARKERS: [&str; 6] = [START, MESSAGE, CHANNEL, END, RETURN, CALL];

/// The first of [`MARKERS`] in a text.
pub fn find_marker(text: &str) -> Option<&'static str> {
    if !text.contains("<|") {
        return None;
    }
    MARKERS.into_iter().find(|marker| text.contains(marker))
}
