//! OpenAI's harmony format, written and read: `<|start|>header<|message|>body<|end|>`.
//!
//! Two renderers write it, because two are in use and differ: [`native`] as the chat template of
//! openai/gpt-oss does, [`openai`] as OpenAI's library openai-harmony.

mod completion;
mod frame;
pub mod native;
pub mod openai;
mod parse;
mod schema;
mod system;
mod tools;

pub use completion::{Completion, CompletionPart, parse_completion};
pub use parse::{Header, Span, marked, parse, parse_rendered};
pub use system::VARIABLES;

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
/// What names of tools that are functions begin with.
pub const FUNCTIONS: &str = "functions.";
/// Opens an assistant's message; a prompt ends with it.
pub const ASSISTANT: &str = "<|start|>assistant";
