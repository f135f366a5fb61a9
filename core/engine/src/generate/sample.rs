//! Samples a token: repetition penalty, temperature, `top_k` and `top_p` in the order of transformers, with random numbers
//! of its own for every answer.
//!
//! Each of the last three sees the tokens that the one before it kept, with probabilities that add up to 1. A draw is a
//! function of the seed, the number of the answer and the index of the token, so an answer does not depend on the other
//! answers of a run. candle-transformers has the penalty by transformers' rule; its `LogitsProcessor` is
//! not used, because its generator has a history, and because its `top_p` after `top_k` does not normalise the
//! probabilities again.

use anyhow::{Result, ensure};
use apus_model::ops::philox;
use apus_model::ops::reduce;
use apus_sdk::within;
use candle_core::Tensor;
use candle_transformers::utils::apply_repeat_penalty;
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
    /// The repetition penalty. Logits of tokens that are already in the prompt or the answer are divided by it, or
    /// multiplied if they are negative. 1 changes nothing.
    pub repetition_penalty: f64,
    /// The seed of the random numbers.
    pub seed: u64,
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
}

impl Sampling {
    /// Takes the most probable token each time.
    pub fn greedy(max_new_tokens: usize) -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
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
        let above_0 = (Bound::Excluded(0.0), Bound::Unbounded);
        within("repetition_penalty", &self.repetition_penalty, &above_0)?;
        within("max_new_tokens", &self.max_new_tokens, &(1.0..))?;
        Ok(())
    }

    /// Applies the repetition penalty to the logits `[V]` of the next token. `seen` are the tokens of the prompt and of the
    /// answer so far. The penalty applies without sampling, too.
    ///
    /// # Errors
    /// A penalty that makes a logit infinite.
    pub fn penalised(&self, logits: Tensor, seen: &[u32]) -> Result<Tensor> {
        let penalty = self.repetition_penalty as f32;
        if penalty == 1.0 {
            return Ok(logits);
        }
        let logits = apply_repeat_penalty(&logits, penalty, seen)?;
        ensure!(
            reduce::finite(std::slice::from_ref(&logits))?,
            "repetition_penalty is {}, which makes logits infinite; values from 1 to 1.5 are usual",
            self.repetition_penalty
        );
        Ok(logits)
    }

    /// Chooses the token at index `place` (from 0) of an answer by these logits.
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
        let kept = kept.filter(|(_, logit)| **logit >= floor);
        let weight = |logit: f32| (f64::from(logit - most) / self.temperature).exp();
        let mut tokens: Vec<(u32, f64)> = kept
            .map(|(token, logit)| (token as u32, weight(*logit)))
            .collect();
        share(&mut tokens);
        if self.top_p < 1.0 {
            self.nucleus(&mut tokens);
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

/// Makes probabilities add up to 1.
fn share(tokens: &mut [(u32, f64)]) {
    let sum: f64 = tokens.iter().map(|(_, p)| p).sum();
    tokens.iter_mut().for_each(|(_, p)| *p /= sum);
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use serde::Deserialize;

    fn sampling(temperature: f64, top_k: usize, top_p: f64) -> Sampling {
        Sampling {
            temperature,
            top_k,
            top_p,
            seed: 7,
            ..Sampling::greedy(1)
        }
    }

    #[derive(Deserialize)]
    struct Case {
        logits: Vec<f32>,
        temperature: f64,
        top_k: usize,
        top_p: f64,
        #[serde(default)]
        said: Vec<u32>,
        repetition_penalty: Option<f64>,
        probabilities: Vec<f64>,
    }

    /// The file's script says where its numbers come from.
    #[test]
    fn probabilities_are_those_of_transformers() {
        let text = include_str!("../../../../tests/goldens/sampling.jsonl");
        let (mut cases, mut penalised) = (0, 0);
        for line in text.lines() {
            let case: Case = serde_json::from_str(line).unwrap();
            let sampling = Sampling {
                repetition_penalty: case.repetition_penalty.unwrap_or(1.0),
                ..sampling(case.temperature, case.top_k, case.top_p)
            };
            let logits = Tensor::new(case.logits.as_slice(), &Device::Cpu).unwrap();
            let logits = sampling.penalised(logits, &case.said).unwrap();
            penalised += usize::from(case.repetition_penalty.is_some());
            let mut found = vec![0.0; case.logits.len()];
            for (token, p) in sampling.left(&logits.to_vec1().unwrap()) {
                found[token as usize] = p;
            }
            for (found, expected) in found.iter().zip(&case.probabilities) {
                assert!(
                    (found - expected).abs() < 1e-6,
                    "{line}\n{found} {expected}"
                );
            }
            cases += 1;
        }
        assert!(cases > 50 && penalised > 20, "{cases} {penalised}");
    }

    #[test]
    fn a_penalty_changes_the_most_probable_token() {
        let sampling = |repetition_penalty| Sampling {
            repetition_penalty,
            ..Sampling::greedy(1)
        };
        let penalised = |penalty, seen: &[u32]| -> Result<Vec<f32>> {
            let logits = Tensor::new(&[3.0f32, 2.0, -1.0, 0.0], &Device::Cpu)?;
            Ok(sampling(penalty).penalised(logits, seen)?.to_vec1()?)
        };
        assert_eq!(penalised(1.0, &[0, 1, 2]).unwrap(), [3.0, 2.0, -1.0, 0.0]);
        assert_eq!(
            penalised(2.0, &[0, 2, 3, 0]).unwrap(),
            [1.5, 2.0, -2.0, 0.0]
        );
        assert_eq!(penalised(0.5, &[2]).unwrap(), [3.0, 2.0, -0.5, 0.0]);
        let bad = penalised(1e-45, &[0]).unwrap_err().to_string();
        assert!(bad.contains("repetition_penalty is "), "{bad}");
    }

    #[test]
    fn draws_have_these_probabilities_and_answers_draw_for_themselves() {
        let sampling = sampling(1.0, 3, 1.0);
        let logits = [0.0, 2.0, 1.0, -1.0, -30.0];
        let left = sampling.left(&logits);
        let mut counts = [0u32; 5];
        let answers = 40_000;
        for answer in 0..answers {
            counts[sampling.choose(&logits, answer, 3) as usize] += 1;
        }
        for (token, p) in left {
            let share = f64::from(counts[token as usize]) / answers as f64;
            assert!((share - p).abs() < 0.01, "{token}: {share} {p}");
        }
        assert_eq!(counts[3] + counts[4], 0);
        let tokens = |answer: u64| -> Vec<u32> {
            let places = 0..64;
            places
                .map(|place| sampling.choose(&logits, answer, place))
                .collect()
        };
        assert_ne!(tokens(0), tokens(1));
        assert_eq!(tokens(5), tokens(5));
    }

    #[test]
    fn extreme_temperatures_give_numbers() {
        let logits = [1.0, 80.0, -80.0, 79.0];
        for (temperature, expected) in [(1e-300, 1.0), (1e300, 0.25)] {
            let left = sampling(temperature, 0, 1.0).left(&logits);
            assert!((left[1].1 - expected).abs() < 1e-9, "{left:?}");
        }
        let left = sampling(1.0, 0, 1e-9).left(&logits);
        assert_eq!(left, [(1, 1.0)]);
    }

    #[test]
    fn values_that_cannot_be_meant() {
        let error = |sampling: Sampling| sampling.check().unwrap_err().to_string();
        for bad in [-0.1, f64::NAN, f64::INFINITY] {
            assert!(error(sampling(bad, 0, 1.0)).starts_with("temperature is "));
        }
        for bad in [0.0, -0.5, 1.5, f64::NAN] {
            let bad = error(sampling(1.0, 0, bad));
            assert!(
                bad.contains("expected a number above 0 and up to 1"),
                "{bad}"
            );
        }
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let bad = error(Sampling {
                repetition_penalty: bad,
                ..Sampling::greedy(1)
            });
            assert!(bad.contains("expected a number above 0"), "{bad}");
        }
        let none = Sampling {
            max_new_tokens: 0,
            ..sampling(1.0, 0, 1.0)
        };
        assert!(error(none).contains("max_new_tokens"));
        sampling(0.0, 50, 1.0).check().unwrap();
    }
}
