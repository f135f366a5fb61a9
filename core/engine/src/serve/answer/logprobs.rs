//! Log-probabilities as clients read them.

use crate::generate::TokenLogprobs;
use apus_data::chat::Tokenizer;
use serde::Serialize;

/// A token with its log-probability and the most probable ones in its place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenEntry {
    /// Its text; bytes that are no text alone are replacement characters.
    pub token: String,
    /// Its log-probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The most probable ones, each without others in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<Vec<TokenEntry>>,
}

/// The log-probabilities at a token.
pub fn entry(tokenizer: &Tokenizer, token: u32, logprobs: &TokenLogprobs) -> TokenEntry {
    let one = |token: u32, logprob: f32| TokenEntry {
        token: tokenizer.decode(&[token], true),
        // JSON has no infinity, and a token that a model all but excludes is one too.
        logprob: logprob.max(-9999.0),
        bytes: tokenizer.token(token).to_vec(),
        top_logprobs: None,
    };
    let top = logprobs
        .top
        .iter()
        .map(|&(token, logprob)| one(token, logprob));
    TokenEntry {
        top_logprobs: Some(top.collect()),
        ..one(token, logprobs.logprob)
    }
}
