//! One answer of a completion: its text, and log-probabilities in the old form of OpenAI's.

use crate::generate::{AnswerText, TokenLogprobs};
use crate::serve::answer::{TokenEntry, entry};
use crate::serve::worker::Scores;
use apus_data::chat::Tokenizer;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What an answer has of its prompt.
pub enum Echo {
    /// Nothing.
    Nothing,
    /// Its text.
    Text(Vec<u32>),
    /// Its text with log-probabilities.
    Scores(Vec<u32>, Scores),
}

/// One answer.
pub struct Choice {
    tokenizer: Arc<Tokenizer>,
    text: AnswerText,
    stop_ids: Vec<u32>,
    tokens: usize,
    word: Option<&'static str>,
    /// Text that was not told yet.
    fresh: String,
    has_logprobs: bool,
    /// Log-probabilities that were not told yet; the first token of a text has none.
    entries: Vec<(TokenEntry, bool)>,
    offset: usize,
}

impl Choice {
    /// An answer of which nothing was generated.
    pub fn new(
        tokenizer: Arc<Tokenizer>,
        stop: &[String],
        stop_ids: Vec<u32>,
        logprobs: Option<usize>,
        echo: &Echo,
    ) -> Self {
        let mut choice = Self {
            text: AnswerText::new(stop),
            stop_ids,
            tokens: 0,
            word: None,
            fresh: String::new(),
            has_logprobs: logprobs.is_some(),
            entries: Vec::new(),
            offset: 0,
            tokenizer,
        };
        match echo {
            Echo::Nothing => {}
            Echo::Text(tokens) => choice.fresh = choice.tokenizer.decode(tokens, true),
            Echo::Scores(tokens, scores) => {
                choice.fresh = choice.tokenizer.decode(tokens, true);
                let none = TokenLogprobs {
                    logprob: 0.0,
                    top: Vec::new(),
                };
                let all = std::iter::once(&none).chain(scores);
                let entries = tokens.iter().zip(all).enumerate();
                choice.entries = entries
                    .map(|(at, (token, scores))| (entry(&choice.tokenizer, *token, scores), at > 0))
                    .collect();
            }
        }
        choice
    }

    /// Reads a token.
    pub fn push(&mut self, token: u32, logprobs: Option<&TokenLogprobs>) {
        self.tokens += 1;
        if let Some(logprobs) = logprobs {
            self.entries
                .push((entry(&self.tokenizer, token, logprobs), true));
        }
        if !self.stop_ids.contains(&token) {
            self.fresh += &self.text.push(token, &self.tokenizer, false);
        }
        if self.text.has_ended() {
            self.word = Some("stop");
        }
    }

    /// Reads the end.
    pub fn end(&mut self, word: &'static str) {
        self.fresh += &self.text.end();
        self.word.get_or_insert(word);
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.word.is_some()
    }

    /// Tokens that were generated.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether there is anything that was not told yet.
    pub fn has_news(&self) -> bool {
        !self.fresh.is_empty() || !self.entries.is_empty() || self.has_ended()
    }

    /// What was not told yet.
    pub fn json(&mut self, index: usize) -> Value {
        let logprobs = match self.has_logprobs {
            true => self.logprobs(),
            false => Value::Null,
        };
        json!({
            "index": index,
            "text": std::mem::take(&mut self.fresh),
            "logprobs": logprobs,
            "finish_reason": self.word,
            "stop_reason": null,
        })
    }

    fn logprobs(&mut self) -> Value {
        let mut offsets = Vec::with_capacity(self.entries.len());
        let entries = std::mem::take(&mut self.entries);
        for (entry, _) in &entries {
            offsets.push(self.offset);
            self.offset += entry.token.chars().count();
        }
        let known = |(entry, is_known): &(TokenEntry, bool)| is_known.then_some(entry.logprob);
        let top = |(entry, is_known): &(TokenEntry, bool)| {
            is_known.then(|| {
                let mut top = Map::new();
                for other in entry.top_logprobs.iter().flatten() {
                    // Of tokens that read alike the most probable one stands first.
                    top.entry(other.token.as_str())
                        .or_insert_with(|| other.logprob.into());
                }
                // The token itself is among them, whether or not it is one of the most probable.
                top.entry(entry.token.as_str())
                    .or_insert_with(|| entry.logprob.into());
                top
            })
        };
        json!({
            "tokens": entries.iter().map(|(entry, _)| entry.token.as_str()).collect::<Vec<_>>(),
            "token_logprobs": entries.iter().map(known).collect::<Vec<_>>(),
            "top_logprobs": entries.iter().map(top).collect::<Vec<_>>(),
            "text_offset": offsets,
        })
    }
}
