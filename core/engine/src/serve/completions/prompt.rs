//! The prompts of a completion.

use crate::serve::http::ApiError;
use crate::serve::server::Server;
use apus_data::chat::Rendered;
use serde::Deserialize;

/// A text or several, or their tokens.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "expected text, a list of texts, a list of token ids, or a list of such lists"
)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Tokens.
    Tokens(Vec<u32>),
    /// Tokens of several texts.
    Several(Vec<Vec<u32>>),
}

impl Prompt {
    /// The tokens of all prompts. A control token that is written out in a text is one: whoever sends a completion writes the whole
    /// prompt.
    ///
    /// # Errors
    /// No prompt, an empty one, or a token that the model does not have.
    pub fn tokens(self, server: &Server) -> Result<Vec<Vec<u32>>, ApiError> {
        let tokenizer = server.encoder.tokenizer();
        let of = |text: String| {
            let rendered = Rendered::read(text, tokenizer.control());
            let tokens = tokenizer
                .encode(&rendered)
                .map_err(|error| ApiError::of("prompt", format!("{error:#}")))?;
            Ok(tokens.ids)
        };
        let prompts: Vec<Vec<u32>> = match self {
            Self::Text(text) => vec![of(text)?],
            Self::Texts(texts) => texts.into_iter().map(of).collect::<Result<_, ApiError>>()?,
            Self::Tokens(tokens) => vec![tokens],
            Self::Several(all) => all,
        };
        let most = server.worker.loaded.vocabulary;
        if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
            return Err(ApiError::of("prompt", "is empty, expected a token or more"));
        }
        match prompts
            .iter()
            .flatten()
            .find(|token| **token as usize >= most)
        {
            Some(token) => Err(ApiError::of(
                "prompt",
                format!("has the token {token}, expected ids below {most}"),
            )),
            None => Ok(prompts),
        }
    }
}
