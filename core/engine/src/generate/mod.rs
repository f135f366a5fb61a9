//! Generation: sampling with a KV cache, a conversation on a terminal, answers to the rows of a dataset.

mod chat;
mod dataset;
mod defaults;
mod infer;
mod logits;
mod results;
mod sample;
mod tokens;

pub use infer::infer;
pub use sample::Sampling;
pub use tokens::generate;

use anyhow::Result;
use apus_data::chat::Encoder;
use apus_model::model::CausalLm;
use apus_sdk::{Conversation, Message};
use sha2::{Digest, Sha256};

/// Counts of answers and tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers.
    pub samples: usize,
    /// Tokens of the prompts.
    pub prompt: usize,
    /// Tokens of the answers.
    pub generated: usize,
}

impl Counts {
    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.prompt += other.prompt;
        self.generated += other.generated;
    }

    /// A line with the counts and the speed over this many seconds.
    pub fn line(&self, seconds: f64) -> String {
        format!(
            "{} answers, {} prompt tokens, {} generated tokens, {seconds:.1} s, {:.1} tokens/s",
            self.samples,
            self.prompt,
            self.generated,
            self.generated as f64 / seconds.max(1e-9)
        )
    }
}

/// An answer.
pub struct Answer {
    /// The assistant's message.
    pub message: Message,
    /// The whole text, including special tokens.
    pub text: String,
    /// Its length in tokens.
    pub counts: Counts,
    /// Whether it was cut off at the greatest number of tokens.
    pub is_cut_off: bool,
}

/// Generates the model's answer to a conversation. `number` is the number of the answer in the run; each answer has its
/// own random numbers. `on_text` gets the text, including special tokens, while it is generated.
pub fn respond(
    model: &CausalLm,
    encoder: &Encoder,
    conversation: &Conversation,
    (sampling, number): (&Sampling, u64),
    on_text: &mut dyn FnMut(&str),
) -> Result<Answer> {
    let (_, prompt) = encoder.prompt(conversation)?;
    let tokenizer = encoder.tokenizer();
    let stop = tokenizer.stop_ids(encoder.dialect().stop_tokens());
    let mut shown = Streamed::default();
    let ids = generate(model, &prompt, &stop, (sampling, number), &mut |ids| {
        let bytes = tokenizer.decode_bytes(ids, true);
        on_text(shown.next(&bytes));
    })?;
    let completion = tokenizer.rendered(&ids);
    let has_ended = ids.last().is_some_and(|last| stop.contains(last));
    Ok(Answer {
        is_cut_off: !has_ended && ids.len() == sampling.max_new_tokens,
        message: encoder.dialect().answer(&completion),
        text: completion.text,
        counts: Counts {
            samples: 1,
            prompt: prompt.len(),
            generated: ids.len(),
        },
    })
}

/// Generates the answer to one prompt, as text. The random numbers are a function of the prompt, so they are the same each
/// time that the prompt is answered during training.
pub fn answer(
    model: &CausalLm,
    encoder: &Encoder,
    prompt: &str,
    sampling: &Sampling,
) -> Result<String> {
    let conversation = Conversation {
        messages: vec![Message::new("user", prompt)],
        ..Conversation::default()
    };
    let mut number = [0; 8];
    number.copy_from_slice(&Sha256::digest(prompt)[..8]);
    let sampling = (sampling, u64::from_le_bytes(number));
    let answer = respond(model, encoder, &conversation, sampling, &mut |_| {})?;
    Ok(answer.message.text().unwrap_or_default().to_owned())
}

/// Decodes a stream of bytes: an incomplete character waits for its remaining bytes.
#[derive(Default)]
struct Streamed {
    held: String,
    shown: usize,
}

impl Streamed {
    /// The text that is new in `bytes`, which are all bytes so far.
    fn next(&mut self, bytes: &[u8]) -> &str {
        self.held.clear();
        let mut fresh = &bytes[self.shown.min(bytes.len())..];
        loop {
            let (valid, bad) = match std::str::from_utf8(fresh) {
                Ok(text) => (text.len(), None),
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            self.held += &String::from_utf8_lossy(&fresh[..valid]);
            self.shown += valid + bad.unwrap_or(0);
            match bad {
                // What cannot become valid any more is shown as a replacement character.
                Some(bad) => {
                    self.held.push('\u{fffd}');
                    fresh = &fresh[valid + bad..];
                }
                None => return &self.held,
            }
        }
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
        let mut streamed = Streamed::default();
        let shown: Vec<String> = [&b"a\xff\xe5"[..], b"a\xff\xe5\x96", b"a\xff\xe5\x96\xb5"]
            .map(|bytes| streamed.next(bytes).to_owned())
            .to_vec();
        assert_eq!(shown.concat(), "a\u{fffd}喵");
    }
}
