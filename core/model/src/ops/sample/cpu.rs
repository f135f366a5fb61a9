//! Rows of logits on the CPU, in f64.

use super::{Choice, Draw, Row, Sampled};
use crate::ops::host;
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// See [`super::sample`]; `None` where a row has no token.
pub fn sample(logits: &Tensor, rows: &[Row]) -> Result<Vec<Option<Sampled>>> {
    let vocab = logits.dim(1)?;
    host::with(logits, |logits: &[f32]| {
        let rows = logits.par_chunks(vocab).zip(rows);
        Ok(rows.map(|(logits, row)| one(logits, row)).collect())
    })
}

fn one(given: &[f32], row: &Row) -> Option<Sampled> {
    let mut logits = given.to_vec();
    for listed in &row.listed {
        let logit = &mut logits[listed.token as usize];
        *logit = row.penalties.change(*logit, listed);
    }
    if let Some(allowed) = &row.allowed {
        for (token, logit) in logits.iter_mut().enumerate() {
            if allowed[token / 32] >> (token % 32) & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    let good = |logit: &f32| logit.is_finite() || *logit == f32::NEG_INFINITY;
    let any = logits.iter().any(|logit| logit.is_finite());
    (any && logits.iter().all(good)).then(|| {
        let token = row.choice.token(&logits, row.draw);
        let most = given.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = given.iter().map(|l| f64::from(l - most).exp()).sum();
        Sampled {
            token,
            logprob: (f64::from(given[token as usize] - most) - sum.ln()) as f32,
        }
    })
}

impl Choice {
    /// The token of these logits, of which one at least is finite: drawn, or the most probable one.
    pub fn token(&self, logits: &[f32], draw: Draw) -> u32 {
        if self.temperature == 0.0 {
            return most_probable(logits);
        }
        let tokens = self.kept(logits);
        let mut at = draw.unit() * tokens.iter().map(|(_, p)| p).sum::<f64>();
        let drawn = tokens.iter().find(|(_, p)| {
            at -= p;
            at < 0.0
        });
        // Rounding may leave a little after the last one.
        drawn.or(tokens.last()).map_or(0, |(token, _)| *token)
    }

    /// The tokens that are kept, by index, with their probabilities.
    pub fn kept(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let floor = self.floor(logits);
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let kept = logits.iter().enumerate();
        let kept = kept.filter(|(_, logit)| **logit >= floor && **logit > f32::NEG_INFINITY);
        let weight = |logit: f32| (f64::from(logit - most) / self.temperature).exp();
        let mut tokens: Vec<(u32, f64)> = kept
            .map(|(token, logit)| (token as u32, weight(*logit)))
            .collect();
        share(&mut tokens);
        if self.top_p < 1.0 {
            self.nucleus(&mut tokens);
            share(&mut tokens);
        }
        if self.min_p > 0.0 {
            let top = tokens.iter().fold(0f64, |top, (_, p)| top.max(*p));
            tokens.retain(|(_, p)| *p >= self.min_p * top);
            share(&mut tokens);
        }
        tokens
    }

    /// The least logit that `top_k` keeps. All tokens with this logit are kept.
    fn floor(&self, logits: &[f32]) -> f32 {
        if self.top_k == 0 || self.top_k >= logits.len() {
            return f32::NEG_INFINITY;
        }
        let mut logits = logits.to_vec();
        let by_size = |a: &f32, b: &f32| b.total_cmp(a);
        *logits.select_nth_unstable_by(self.top_k - 1, by_size).1
    }

    /// Removes the least probable tokens that together have at most the probability `1 - top_p`. One token always stays.
    fn nucleus(&self, tokens: &mut Vec<(u32, f64)>) {
        tokens.sort_by(|(a, p), (b, q)| q.total_cmp(p).then(b.cmp(a)));
        let mut gone = 0.0;
        while let [_, .., (_, p)] = tokens.as_slice() {
            gone += p;
            if gone > 1.0 - self.top_p {
                break;
            }
            tokens.pop();
        }
        tokens.sort_unstable_by_key(|(token, _)| *token);
    }
}

/// The token with the greatest logit; of equal ones the first.
pub fn most_probable(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// Makes probabilities add up to 1.
fn share(tokens: &mut [(u32, f64)]) {
    let sum: f64 = tokens.iter().map(|(_, p)| p).sum();
    tokens.iter_mut().for_each(|(_, p)| *p /= sum);
}
