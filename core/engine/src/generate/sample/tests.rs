//! Probabilities and draws against transformers and against the softmax.

use super::*;
use apus_model::ops::sample::most_probable;
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
        for (token, p) in sampling.choice().kept(&logits) {
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
    let left = sampling.choice().kept(&logits);
    let mut counts = [0u32; 5];
    let answers = 40_000;
    for answer in 0..answers {
        counts[sampling.token(&logits, answer, 3) as usize] += 1;
    }
    for (token, p) in left {
        let share = f64::from(counts[token as usize]) / answers as f64;
        assert!((share - p).abs() < 0.01, "{token}: {share} {p}");
    }
    assert_eq!(counts[3] + counts[4], 0);
    let tokens = |answer: u64| -> Vec<u32> {
        let places = 0..64;
        places
            .map(|place| sampling.token(&logits, answer, place))
            .collect()
    };
    assert_ne!(tokens(0), tokens(1));
    assert_eq!(tokens(5), tokens(5));
}

#[test]
fn extreme_temperatures_give_numbers() {
    let logits = [1.0, 80.0, -80.0, 79.0];
    for (temperature, expected) in [(1e-300, 1.0), (1e300, 0.25)] {
        let left = sampling(temperature, 0, 1.0).choice().kept(&logits);
        assert!((left[1].1 - expected).abs() < 1e-9, "{left:?}");
    }
    let left = sampling(1.0, 0, 1e-9).choice().kept(&logits);
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
    for (name, bad) in [
        (
            "min_p",
            Sampling {
                min_p: 1.1,
                ..sampling(1.0, 0, 1.0)
            },
        ),
        (
            "presence_penalty",
            Sampling {
                presence_penalty: 2.1,
                ..sampling(1.0, 0, 1.0)
            },
        ),
        (
            "frequency_penalty",
            Sampling {
                frequency_penalty: f64::NAN,
                ..sampling(1.0, 0, 1.0)
            },
        ),
    ] {
        assert!(error(bad).starts_with(&format!("{name} is ")));
    }
    let biased = |logit_bias: &[(u32, f32)]| {
        let logit_bias = logit_bias.to_vec();
        let error = Sampling {
            logit_bias,
            ..sampling(1.0, 0, 1.0)
        }
        .check()
        .unwrap_err();
        format!("{error:#}")
    };
    assert!(biased(&[(7, 100.5)]).contains("token 7: logit_bias is 100.5"));
    assert!(biased(&[(7, 1.0), (7, 1.0)]).contains("token 7 twice"));
    let none = Sampling {
        max_new_tokens: 0,
        ..sampling(1.0, 0, 1.0)
    };
    assert!(error(none).contains("max_new_tokens"));
    sampling(0.0, 50, 1.0).check().unwrap();
}

/// A row of sampling_options.jsonl.
#[derive(Deserialize)]
struct OptionsCase {
    logits: Vec<f32>,
    prompt: Vec<u32>,
    answer: Vec<u32>,
    temperature: Option<f64>,
    top_k: Option<usize>,
    top_p: Option<f64>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    logit_bias: Option<Vec<(u32, f32)>>,
    probabilities: Vec<f64>,
}

impl OptionsCase {
    fn all() -> impl Iterator<Item = Self> {
        let text = include_str!("../../../../../tests/goldens/sampling_options.jsonl");
        // The first row says what it was written with.
        text.lines()
            .skip(1)
            .map(|line| serde_json::from_str(line).unwrap())
    }

    fn sampling(&self) -> Sampling {
        let none = Sampling::greedy(1);
        Sampling {
            temperature: self.temperature.unwrap_or(1.0),
            top_k: self.top_k.unwrap_or(none.top_k),
            top_p: self.top_p.unwrap_or(none.top_p),
            min_p: self.min_p.unwrap_or(none.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(none.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(none.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(none.frequency_penalty),
            logit_bias: self.logit_bias.clone().unwrap_or_default(),
            seed: 3,
            ..none
        }
    }

    /// The logits after what changes them.
    fn processed(&self) -> Vec<f32> {
        let mut logits = self.logits.clone();
        let (prompt, answer) = (self.prompt.as_slice(), self.answer.as_slice());
        let seen = Seen { prompt, answer };
        self.sampling().process(&mut logits, seen).unwrap();
        logits
    }
}

#[test]
fn every_option_is_that_of_transformers() {
    let mut cases = 0;
    for case in OptionsCase::all() {
        let sampling = case.sampling();
        sampling.check().unwrap();
        let mut found = vec![0.0; case.logits.len()];
        for (token, p) in sampling.choice().kept(&case.processed()) {
            found[token as usize] = p;
        }
        for (found, expected) in found.iter().zip(&case.probabilities) {
            assert!(
                (found - expected).abs() < 1e-5,
                "{sampling:?}\n{found} {expected}"
            );
        }
        let greedy = Sampling {
            temperature: 0.0,
            ..sampling
        };
        let best = most_probable(&case.processed()) as usize;
        assert_eq!(greedy.token(&case.processed(), 0, 0) as usize, best);
        let most = case.probabilities.iter().copied().fold(0.0, f64::max);
        assert!(case.probabilities[best] > most - 1e-6);
        cases += 1;
    }
    assert_eq!(cases, 160);
}

/// The statistic of draws against probabilities, and a bound that it passes once in ten thousand times (Wilson and Hilferty).
/// Tokens that are expected less than five times count together.
fn chi_square(counts: &[u32], probabilities: &[f64]) -> (f64, f64) {
    let draws: u32 = counts.iter().sum();
    let (mut rare, mut statistic, mut classes) = ((0.0, 0.0), 0.0, 0.0f64);
    let mut add = |count: f64, expected: f64| {
        statistic += (count - expected).powi(2) / expected;
        classes += 1.0;
    };
    for (count, p) in counts.iter().zip(probabilities) {
        let (count, expected) = (f64::from(*count), p * f64::from(draws));
        match expected < 5.0 {
            true => rare = (rare.0 + count, rare.1 + expected),
            false => add(count, expected),
        }
    }
    if rare.1 > 1.0 {
        add(rare.0, rare.1);
    }
    let freedom = (classes - 1.0).max(1.0);
    let part = 2.0 / (9.0 * freedom);
    (
        statistic,
        freedom * (1.0 - part + 3.72 * part.sqrt()).powi(3),
    )
}

#[test]
fn draws_are_distributed_as_the_probabilities_of_transformers() {
    let mut several = 0;
    for case in OptionsCase::all() {
        let (sampling, logits) = (case.sampling(), case.processed());
        let mut counts = vec![0u32; logits.len()];
        for answer in 0..20_000 {
            counts[sampling.token(&logits, answer, 0) as usize] += 1;
        }
        for (count, p) in counts.iter().zip(&case.probabilities) {
            assert!(*count == 0 || *p > 0.0, "{counts:?}");
        }
        let (statistic, bound) = chi_square(&counts, &case.probabilities);
        assert!(
            statistic < bound,
            "{statistic} {bound} {sampling:?} {counts:?}"
        );
        several += usize::from(counts.iter().filter(|&&count| count > 0).count() > 1);
    }
    assert!(several > 80, "{several}");
    // It would be seen if the draws were of other probabilities.
    let (statistic, bound) = chi_square(&[10_300, 9_700], &[0.5, 0.5]);
    assert!(statistic > bound);
}

#[test]
fn a_mask_leaves_what_it_allows() {
    let mut logits = vec![1.0f32; 40];
    forbid(&mut logits, &[1 << 3 | 1 << 31, 1 << 2]).unwrap();
    let left = sampling(1.0, 0, 1.0).choice().kept(&logits);
    let tokens: Vec<u32> = left.iter().map(|(token, _)| *token).collect();
    assert_eq!(tokens, [3, 31, 34]);
    assert!(left.iter().all(|(_, p)| (p - 1.0 / 3.0).abs() < 1e-9));
    let error = forbid(&mut logits, &[]).unwrap_err().to_string();
    assert!(error.contains("no token may come next"), "{error}");
}
