//! What changes logits before tokens are kept or drawn: biases, penalties, a mask, in transformers' order (its `sequence_bias` of
//! single tokens comes before its repetition penalty). Penalties on presence and frequency are OpenAI's and vLLM's: they look at
//! the answer alone.

use super::Sampling;
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use candle_transformers::utils::apply_repeat_penalty;
use std::collections::BTreeMap;

/// The tokens that are there already.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Those of the prompt.
    pub prompt: &'a [u32],
    /// Those of the answer so far.
    pub answer: &'a [u32],
}

impl Sampling {
    /// Whether logits are used as the model gives them.
    pub fn keeps_logits(&self) -> bool {
        self.repetition_penalty == 1.0
            && self.presence_penalty == 0.0
            && self.frequency_penalty == 0.0
            && self.logit_bias.is_empty()
    }

    /// Changes the logits of the next token. They apply without sampling, too.
    ///
    /// # Errors
    /// A penalty that makes a logit infinite.
    pub fn process(&self, logits: &mut [f32], seen: Seen) -> Result<()> {
        for (token, bias) in &self.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        if self.repetition_penalty != 1.0 {
            self.penalise_repetition(logits, seen)?;
        }
        if self.presence_penalty != 0.0 || self.frequency_penalty != 0.0 {
            for (token, count) in counts(seen.answer) {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit -= self.frequency_penalty as f32 * count as f32;
                    *logit -= self.presence_penalty as f32;
                }
            }
        }
        Ok(())
    }

    fn penalise_repetition(&self, logits: &mut [f32], seen: Seen) -> Result<()> {
        let tokens = [seen.prompt, seen.answer].concat();
        let given = Tensor::new(&*logits, &Device::Cpu)?;
        let changed = apply_repeat_penalty(&given, self.repetition_penalty as f32, &tokens)?;
        for (logit, changed) in logits.iter_mut().zip(changed.to_vec1::<f32>()?) {
            ensure!(
                changed.is_finite() || !logit.is_finite(),
                "repetition_penalty is {}, which makes logits infinite; values from 1 to 1.5 are usual",
                self.repetition_penalty
            );
            *logit = changed;
        }
        Ok(())
    }
}

fn counts(tokens: &[u32]) -> BTreeMap<u32, usize> {
    let mut counts = BTreeMap::new();
    for token in tokens {
        *counts.entry(*token).or_default() += 1;
    }
    counts
}

/// Forbids the tokens whose bit in `allowed` is 0 or missing.
///
/// # Errors
/// No token is left.
pub fn forbid(logits: &mut [f32], allowed: &[u32]) -> Result<()> {
    for (token, logit) in logits.iter_mut().enumerate() {
        let bits = allowed.get(token / 32).copied().unwrap_or(0);
        if bits >> (token % 32) & 1 == 0 {
            *logit = f32::NEG_INFINITY;
        }
    }
    ensure!(
        logits.iter().any(|logit| *logit > f32::NEG_INFINITY),
        "no token may come next, as the mask of the request says"
    );
    Ok(())
}
