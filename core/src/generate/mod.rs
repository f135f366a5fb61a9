//! Answers: sampling with a key-value cache, a conversation on a terminal, answers to a file.

mod chat;
mod infer;
mod sample;

pub use infer::{base_of, infer};
pub use sample::{Sampling, generate};

use crate::chat::Encoder;
use crate::chat::harmony::parse_completion;
use crate::model::GptOss;
use anyhow::Result;
use apus_sdk::{Conversation, Message};

/// The model's answer to a conversation: its message, and how many tokens it read and wrote.
///
/// # Errors
/// The conversation cannot be rendered, or out of memory.
pub fn respond(
    model: &GptOss,
    encoder: &Encoder,
    conversation: &Conversation,
    sampling: &Sampling,
    on_text: &mut dyn FnMut(&str),
) -> Result<(Message, usize, usize)> {
    let (_, prompt) = encoder.prompt(conversation)?;
    let tokenizer = encoder.tokenizer();
    let stop = tokenizer.stop_ids();
    let mut shown = Streamed::default();
    let ids = generate(model, &prompt, &stop, sampling, &mut |ids| {
        let bytes = tokenizer.decode_bytes(ids, true);
        on_text(shown.next(&bytes));
    })?;
    let text = tokenizer.decode(&ids, true);
    Ok((parse_completion(&text).message(), prompt.len(), ids.len()))
}

/// The answer to one prompt, as text.
///
/// # Errors
/// As [`respond`].
pub fn answer(
    model: &GptOss,
    encoder: &Encoder,
    prompt: &str,
    sampling: &Sampling,
) -> Result<String> {
    let conversation = Conversation {
        messages: vec![Message::new("user", prompt)],
        ..Conversation::default()
    };
    let (message, ..) = respond(model, encoder, &conversation, sampling, &mut |_| {})?;
    Ok(message.text().unwrap_or_default().to_owned())
}

/// Bytes shown so far: a character that is not whole yet waits for its rest.
#[derive(Default)]
struct Streamed {
    held: String,
    shown: usize,
}

impl Streamed {
    /// The text that came with these bytes, all bytes so far.
    fn next(&mut self, bytes: &[u8]) -> &str {
        let fresh = &bytes[self.shown.min(bytes.len())..];
        let whole = match std::str::from_utf8(fresh) {
            Ok(text) => text.len(),
            // What cannot become valid any more is shown as replacement characters.
            Err(error) if error.error_len().is_some() => fresh.len(),
            Err(error) => error.valid_up_to(),
        };
        self.shown += whole;
        self.held = String::from_utf8_lossy(&fresh[..whole]).into_owned();
        &self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_shown_whole() {
        let text = "喵!".as_bytes();
        let mut streamed = Streamed::default();
        let shown: Vec<String> = (1..=text.len())
            .map(|n| streamed.next(&text[..n]).to_owned())
            .collect();
        assert_eq!(shown, ["", "", "喵", "!"]);
    }
}
