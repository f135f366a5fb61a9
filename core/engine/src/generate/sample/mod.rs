//! Sampling by temperature, penalties, biases, `top_k`, `top_p` and `min_p` in the order of transformers, with random numbers of
//! its own for every answer.
//!
//! `processors` change logits, `kept` says which tokens are left with which probabilities, `logprobs` tells log-probabilities. A
//! draw is a function of the seed, the number of the answer and the index of the token, so an answer does not depend on the
//! other answers of a run. candle-transformers' `LogitsProcessor` is not used, because its generator has a history, and because
//! its `top_p` after `top_k` does not normalise the probabilities again.

mod kept;
mod logprobs;
mod processors;
#[cfg(test)]
mod tests;

pub use logprobs::token_logprobs;
pub use processors::{Seen, forbid};

use anyhow::{Context, Result, ensure};
use apus_sdk::within;
use std::ops::Bound;

/// How tokens are sampled.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// The temperature. 0 takes the most probable token.
    pub temperature: f64,
    /// Only the most probable tokens that together have this probability are kept; 1 keeps all.
    pub top_p: f64,
    /// Only this many of the most probable tokens are kept; 0 keeps all.
    pub top_k: usize,
    /// Only tokens are kept whose probability is at least this share of that of the most probable one; 0 keeps all.
    pub min_p: f64,
    /// The repetition penalty. Logits of tokens that are already in the prompt or the answer are divided by it, or
    /// multiplied if they are negative. 1 changes nothing.
    pub repetition_penalty: f64,
    /// Taken from the logits of all tokens that are in the answer already. 0 changes nothing.
    pub presence_penalty: f64,
    /// Taken from the logit of a token for each time that it is in the answer already. 0 changes nothing.
    pub frequency_penalty: f64,
    /// Tokens and what is added to their logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// The seed of the random numbers.
    pub seed: u64,
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
}

/// The greatest absolute bias, as OpenAI's, which all but bans a token or all but forces it.
const BIAS: f64 = 100.0;

/// The greatest absolute penalty on presence and frequency, as OpenAI's.
const PENALTY: f64 = 2.0;

impl Sampling {
    /// Takes the most probable token each time.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            max_new_tokens,
        }
    }

    /// Whether random numbers are drawn at all.
    pub fn draws(&self) -> bool {
        self.temperature > 0.0
    }

    /// Checks that the values are in their ranges.
    ///
    /// # Errors
    /// A value out of its range.
    pub fn check(&self) -> Result<()> {
        within("temperature", &self.temperature, &(0.0..))?;
        let share = (Bound::Excluded(0.0), Bound::Included(1.0));
        within("top_p", &self.top_p, &share)?;
        within("min_p", &self.min_p, &(0.0..=1.0))?;
        let above_0 = (Bound::Excluded(0.0), Bound::Unbounded);
        within("repetition_penalty", &self.repetition_penalty, &above_0)?;
        let penalty = -PENALTY..=PENALTY;
        within("presence_penalty", &self.presence_penalty, &penalty)?;
        within("frequency_penalty", &self.frequency_penalty, &penalty)?;
        let mut biased = std::collections::BTreeSet::new();
        for (token, bias) in &self.logit_bias {
            within("logit_bias", &f64::from(*bias), &(-BIAS..=BIAS))
                .with_context(|| format!("token {token}"))?;
            ensure!(
                biased.insert(token),
                "logit_bias has token {token} twice, expected each token once"
            );
        }
        within("max_new_tokens", &self.max_new_tokens, &(1.0..))?;
        Ok(())
    }
}
