//! What a row of logits is sampled by.

use crate::ops::philox;
use anyhow::{Result, ensure};

/// Which tokens are kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The temperature. 0 takes the most probable token, of equal ones the first.
    pub temperature: f64,
    /// Only this many of the most probable tokens are kept, and those equal to the last of them; 0 keeps all.
    pub top_k: usize,
    /// Only the most probable tokens that together have this probability are kept; 1 keeps all.
    pub top_p: f64,
    /// Only tokens are kept whose probability is at least this share of that of the most probable one; 0 keeps all.
    pub min_p: f64,
}

/// What the random number of a draw follows from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Draw {
    /// The seed.
    pub seed: u64,
    /// The number of the answer.
    pub answer: u64,
    /// The index of the token in its answer, from 0.
    pub place: u64,
}

/// What is taken from the logits of tokens that are there already.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Penalties {
    /// Divides logits, or multiplies negative ones.
    pub repetition: f64,
    /// Is subtracted for each time that a token is in the answer.
    pub frequency: f64,
    /// Is subtracted for tokens that are in the answer.
    pub presence: f64,
}

/// A token whose logit is changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Listed {
    /// The token.
    pub token: u32,
    /// What is added to its logit, before all else.
    pub bias: f32,
    /// How often it is in the answer.
    pub count: u32,
    /// Whether it is in the prompt or the answer.
    pub seen: bool,
}

/// The settings of a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Which tokens are kept.
    pub choice: Choice,
    /// The random number.
    pub draw: Draw,
    /// The penalties on listed tokens.
    pub penalties: Penalties,
    /// Tokens whose logits are changed, in ascending order, each once.
    pub listed: Vec<Listed>,
    /// A bit for each token that may come, 32 to a word; `None` allows all.
    pub allowed: Option<Vec<u32>>,
}

impl Choice {
    /// The most probable token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
    };
}

impl Draw {
    /// A number in `[0, 1)` with 53 bits.
    pub fn unit(self) -> f64 {
        let words = philox::block(self.seed, self.answer, self.place);
        let word = u64::from(words[0]) << 32 | u64::from(words[1]);
        (word >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Penalties {
    /// No penalties.
    pub const NONE: Self = Self {
        repetition: 1.0,
        frequency: 0.0,
        presence: 0.0,
    };

    /// The logit of a listed token after its bias and the penalties.
    pub fn change(&self, logit: f32, listed: &Listed) -> f32 {
        let mut logit = logit + listed.bias;
        let repetition = self.repetition as f32;
        if listed.seen && repetition != 1.0 {
            logit = match logit < 0.0 {
                true => logit * repetition,
                false => logit / repetition,
            };
        }
        if listed.count > 0 {
            logit -= self.frequency as f32 * listed.count as f32;
            logit -= self.presence as f32;
        }
        logit
    }
}

impl Row {
    /// A row whose logits are not changed.
    pub fn plain(choice: Choice, draw: Draw) -> Self {
        Self {
            choice,
            draw,
            penalties: Penalties::NONE,
            listed: Vec::new(),
            allowed: None,
        }
    }

    /// Checks that tokens are in order and in the vocabulary, and that the mask has as many bits.
    pub(super) fn check(&self, vocab: usize) -> Result<()> {
        let ordered = self.listed.is_sorted_by(|a, b| a.token < b.token);
        let last = self.listed.last().map(|listed| listed.token);
        ensure!(
            ordered && last.is_none_or(|last| (last as usize) < vocab),
            "listed tokens up to {last:?} of {vocab}, expected each once, in ascending order"
        );
        let words = self.allowed.as_ref().map(Vec::len);
        ensure!(
            words.is_none_or(|words| words == vocab.div_ceil(32)),
            "a mask of {words:?} words for {vocab} tokens"
        );
        Ok(())
    }
}
