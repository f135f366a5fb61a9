//! Chooses the next tokens of sequences on a card, so that their logits need not come to the host.

use super::request::TokenLogprobs;
use super::sequence::Sequence;
use anyhow::{Result, bail};
use apus_model::ops::sample::{self, Choice, Draw, Listed, Penalties, Row};
use candle_core::Tensor;
use std::collections::BTreeMap;

/// The token of a sequence and what is told of it.
pub type Chosen = (u32, Option<TokenLogprobs>);

/// Chooses the next token of each of these sequences by their rows of `logits` `[n, V]`, which are used up. Those that want to know
/// the most probable tokens are chosen for on the host.
///
/// # Errors
/// The card has failed. What is wrong with one sequence is its own result.
pub fn choose(
    logits: &Tensor,
    running: &mut [Sequence],
    sequences: &[usize],
) -> Result<Vec<Result<Chosen>>> {
    let vocabulary = logits.dim(1)?;
    let mut chosen = Vec::with_capacity(sequences.len());
    let mut rows = Vec::with_capacity(sequences.len());
    for (at, &index) in sequences.iter().enumerate() {
        let sequence = &mut running[index];
        let mut row = Row::plain(Choice::GREEDY, Draw::default());
        chosen.push(if sequence.request.logprobs.is_some_and(|top| top > 0) {
            Some(sequence.choose(&logits.get(at)?.to_vec1::<f32>()?))
        } else {
            match sequence.row(vocabulary) {
                Ok(own) => {
                    row = own;
                    None
                }
                Err(error) => Some(Err(error)),
            }
        });
        rows.push(row);
    }
    let sampled = sample::each(logits, &rows)?;
    let pairs = chosen.into_iter().zip(sampled).zip(sequences);
    Ok(pairs
        .map(|((known, sampled), &index)| match (known, sampled) {
            (Some(known), _) => known,
            (None, Some(sampled)) => running[index].chosen(sampled.token, sampled.logprob),
            (None, None) => running[index].without_token(),
        })
        .collect())
}

impl Sequence {
    /// What a card samples the next token by.
    ///
    /// # Errors
    /// The mask failed.
    fn row(&mut self, vocabulary: usize) -> Result<Row> {
        let allowed = match &mut self.request.mask {
            Some(mask) => {
                let mut allowed = mask.allowed()?;
                allowed.resize(vocabulary.div_ceil(u32::BITS as usize), 0);
                Some(allowed)
            }
            None => None,
        };
        let sampling = &self.request.sampling;
        Ok(Row {
            choice: sampling.choice(),
            draw: sampling.draw(self.request.number, self.answer().len() as u64),
            penalties: Penalties {
                repetition: sampling.repetition_penalty,
                frequency: sampling.frequency_penalty,
                presence: sampling.presence_penalty,
            },
            listed: self.listed(),
            allowed,
        })
    }

    /// The tokens whose logits penalties and biases change.
    fn listed(&self) -> Vec<Listed> {
        let sampling = &self.request.sampling;
        let mut listed: BTreeMap<u32, Listed> = BTreeMap::new();
        let mut change = |token: u32, change: &dyn Fn(&mut Listed)| {
            change(listed.entry(token).or_insert(Listed {
                token,
                bias: 0.0,
                count: 0,
                seen: false,
            }));
        };
        for &(token, bias) in &sampling.logit_bias {
            change(token, &|listed| listed.bias = bias);
        }
        if sampling.repetition_penalty != 1.0 {
            for &token in &self.tokens {
                change(token, &|listed| listed.seen = true);
            }
        }
        if sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0 {
            for &token in self.answer() {
                change(token, &|listed| listed.count += 1);
            }
        }
        listed.into_values().collect()
    }

    fn chosen(&mut self, token: u32, logprob: f32) -> Result<Chosen> {
        if let Some(mask) = &mut self.request.mask {
            mask.accept(token)?;
        }
        let told = |_| TokenLogprobs {
            logprob,
            top: Vec::new(),
        };
        Ok((token, self.request.logprobs.map(told)))
    }

    fn without_token(&self) -> Result<Chosen> {
        bail!(
            "the model's logits are not finite, or the request's penalties, biases and mask leave no token: weights of the model or \
             of its adapter are broken, or far too large"
        )
    }
}
