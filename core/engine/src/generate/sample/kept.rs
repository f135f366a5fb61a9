//! Which tokens are left after temperature, `top_k`, `top_p` and `min_p`, in transformers' order, and the draw. Each of the last three
//! sees the tokens that the one before it kept, with probabilities that add up to 1.

use super::Sampling;
use apus_model::ops::philox;

impl Sampling {
    /// The token at index `place` (from 0) of an answer by these logits, of which one at least is finite: drawn, or the most
    /// probable one.
    pub fn token(&self, logits: &[f32], answer: u64, place: u64) -> u32 {
        match self.draws() {
            true => self.choose(logits, answer, place),
            false => most_probable(logits),
        }
    }

    /// Draws the token at index `place` (from 0) of an answer by these logits.
    pub fn choose(&self, logits: &[f32], answer: u64, place: u64) -> u32 {
        let tokens = self.left(logits);
        let words = philox::block(self.seed, answer, place);
        let word = u64::from(words[0]) << 32 | u64::from(words[1]);
        let unit = (word >> 11) as f64 / (1u64 << 53) as f64;
        let mut at = unit * tokens.iter().map(|(_, p)| p).sum::<f64>();
        let drawn = tokens.iter().find(|(_, p)| {
            at -= p;
            at < 0.0
        });
        // Rounding may leave a little after the last one.
        drawn.or(tokens.last()).map_or(0, |(token, _)| *token)
    }

    /// The tokens that are kept, with their probabilities.
    pub fn left(&self, logits: &[f32]) -> Vec<(u32, f64)> {
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
