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

#[cfg(test)]
mod tests {
    use super::*;
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
        let text = include_str!("../../../../../tests/goldens/sampling.jsonl");
        let (mut cases, mut penalised) = (0, 0);
        for line in text.lines() {
            let case: Case = serde_json::from_str(line).unwrap();
            let sampling = Sampling {
                repetition_penalty: case.repetition_penalty.unwrap_or(1.0),
                ..sampling(case.temperature, case.top_k, case.top_p)
            };
            let mut logits = case.logits.clone();
            let seen = Seen {
                prompt: &case.said,
                answer: &[],
            };
            sampling.process(&mut logits, seen).unwrap();
            penalised += usize::from(case.repetition_penalty.is_some());
            let mut found = vec![0.0; case.logits.len()];
            for (token, p) in sampling.left(&logits) {
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
            let mut logits = [3.0f32, 2.0, -1.0, 0.0];
            let (prompt, answer) = seen.split_at(seen.len() / 2);
            sampling(penalty).process(&mut logits, Seen { prompt, answer })?;
            Ok(logits.to_vec())
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
