//! What is asked of the engine, and what it tells of each request.

use crate::generate::Sampling;
use anyhow::{Result, ensure};
use std::fmt;

/// A prompt to answer.
pub struct Request {
    /// The tokens of the prompt.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What ends the answer, besides its greatest length.
    pub stop: Stop,
    /// The number of the answer, which has random numbers of its own. `n` answers to a prompt are `n` requests with numbers of
    /// their own; what they have in common is computed once.
    pub number: u64,
    /// The name of the adapter that answers; `None` is the model as it is loaded, its own adapter included.
    pub adapter: Option<String>,
    /// How many of the most probable tokens are told at each token, beside the one that was chosen.
    pub logprobs: Option<usize>,
    /// Which tokens may come next.
    pub mask: Option<Box<dyn TokenMask>>,
}

impl Request {
    /// A request to the model as it is loaded, with nothing that ends the answer but its greatest length.
    pub fn new(prompt: Vec<u32>, sampling: Sampling) -> Self {
        Self {
            prompt,
            sampling,
            stop: Stop::default(),
            number: 0,
            adapter: None,
            logprobs: None,
            mask: None,
        }
    }
}

/// What ends an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stop {
    /// The answer ends with the first of these tokens.
    pub ids: Vec<u32>,
    /// The answer ends where one of these strings is complete in its text, control tokens written out. The tokens of the answer
    /// include the one that completes it.
    pub strings: Vec<String>,
}

/// The most strings that end an answer, and the most bytes of each.
const STOP_STRINGS: (usize, usize) = (64, 4096);

impl Stop {
    pub(super) fn check(&self) -> Result<()> {
        let (most, bytes) = STOP_STRINGS;
        ensure!(
            self.strings.len() <= most,
            "{} stop strings, expected at most {most}",
            self.strings.len()
        );
        for text in &self.strings {
            ensure!(
                !text.is_empty() && text.len() <= bytes,
                "a stop string of {} bytes, expected 1 to {bytes}",
                text.len()
            );
        }
        Ok(())
    }
}

/// Constrained decoding: says at each token which ones may come.
pub trait TokenMask: Send {
    /// A bit for each token of the vocabulary, the lowest bit of the first number for token 0; a bit that is 0 or missing forbids
    /// its token.
    ///
    /// # Errors
    /// No token may come, or the mask cannot be computed. The request fails.
    fn allowed(&mut self) -> Result<Vec<u32>>;

    /// Hears of the token that was chosen.
    ///
    /// # Errors
    /// The token is not one that may come. The request fails.
    fn accept(&mut self, token: u32) -> Result<()>;
}

/// A request in an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(super) u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a step brought.
#[derive(Debug)]
pub enum Event {
    /// A token of an answer.
    Token {
        /// The request.
        id: RequestId,
        /// The token.
        token: u32,
        /// Its log-probability, and the most probable tokens, if they were asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The end of an answer.
    Finished {
        /// The request.
        id: RequestId,
        /// Why it ended.
        reason: FinishReason,
        /// All its tokens, the one that ended it included.
        tokens: Vec<u32>,
    },
    /// The request has failed; others go on.
    Failed {
        /// The request.
        id: RequestId,
        /// What was found.
        error: anyhow::Error,
    },
}

impl Event {
    /// The request that it is about.
    pub fn id(&self) -> RequestId {
        match self {
            Self::Token { id, .. } | Self::Finished { id, .. } | Self::Failed { id, .. } => *id,
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FinishReason {
    /// With this token of [`Stop::ids`].
    StopToken(u32),
    /// Where this one of [`Stop::strings`] was complete.
    StopString(String),
    /// At `max_new_tokens`, or where prompt and answer have the greatest length that the engine allows.
    Length,
    /// It was cancelled.
    Cancelled,
}

/// Log-probabilities at a token: the logarithm of the softmax over the model's logits as they are, before temperature,
/// penalties, biases and masks.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// That of the token that was chosen.
    pub logprob: f32,
    /// The most probable tokens with theirs, most probable first; of equal ones the lower id comes first.
    pub top: Vec<(u32, f32)>,
}
