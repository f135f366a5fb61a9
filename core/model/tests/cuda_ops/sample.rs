//! Sampling of rows with settings of all kinds: the tokens and log-probabilities of the CPU.

use crate::support::{Card, card};
use apus_model::ops::sample::{self, Choice, Draw, Listed, Penalties, Row, Sampled};

const PLAIN: Choice = Choice {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
};

fn choices() -> Vec<Choice> {
    let narrowed = |top_k, top_p, min_p, temperature| Choice {
        temperature,
        top_k,
        top_p,
        min_p,
    };
    vec![
        Choice::GREEDY,
        PLAIN,
        narrowed(0, 1.0, 0.0, 0.7),
        narrowed(50, 1.0, 0.0, 1.0),
        narrowed(0, 0.9, 0.0, 1.0),
        narrowed(0, 1.0, 0.05, 1.0),
        narrowed(40, 0.8, 0.0, 1.2),
        narrowed(700, 0.95, 0.02, 1.3),
    ]
}

/// Rows of all choices, some with listed tokens and masks.
fn rows(count: usize, vocab: usize) -> Vec<Row> {
    let choices = choices();
    let one = |at: usize| {
        let draw = Draw {
            seed: 42 << 33,
            answer: at as u64,
            place: 3,
        };
        let mut row = Row::plain(choices[at % choices.len()], draw);
        if at % 3 == 1 {
            row.penalties = Penalties {
                repetition: 1.2,
                frequency: 0.3,
                presence: -0.4,
            };
            let listed = |i: usize| Listed {
                token: (i * 3 + at % 3) as u32,
                bias: [0.0, 1.5, -100.0][i % 3],
                count: i as u32 % 4,
                seen: i % 4 != 1,
            };
            row.listed = (0..vocab / 4).map(listed).collect();
        }
        let word = |i: usize| 0x9e37_79b9u32.wrapping_mul((i + at) as u32 + 1);
        row.allowed = (at % 5 == 2).then(|| (0..vocab.div_ceil(32)).map(word).collect());
        row
    };
    (0..count).map(one).collect()
}

fn both(card: &Card, count: usize, vocab: usize) -> [Vec<Sampled>; 2] {
    let logits = card.normal_f32(vocab as u64, &[count, vocab], 2.0);
    let rows = rows(count, vocab);
    [logits.gpu, logits.cpu].map(|logits| sample::sample(&logits, &rows).unwrap())
}

#[test]
fn tokens_and_log_probabilities_are_those_of_the_cpu() {
    let Some(card) = card() else { return };
    for (count, vocab) in [(40, 100), (40, 1000), (40, 5003), (24, 201_088)] {
        let [found, expected] = both(&card, count, vocab);
        // A draw within a rounding of the border between two tokens may go to the other one.
        let differ = found
            .iter()
            .zip(&expected)
            .filter(|(f, e)| f.token != e.token);
        assert!(
            differ.count() <= 1,
            "{count} x {vocab}: {found:?} {expected:?}"
        );
        for (found, expected) in found.iter().zip(&expected) {
            let same =
                found.token != expected.token || (found.logprob - expected.logprob).abs() < 1e-4;
            assert!(same, "{count} x {vocab}: {found:?} {expected:?}");
        }
    }
}

#[test]
fn a_row_has_its_token_alone_and_beside_others() {
    let Some(card) = card() else { return };
    let (count, vocab) = (70, 3000);
    let logits = card.normal_f32(1, &[count, vocab], 2.0).cpu;
    let rows = rows(count, vocab);
    let together = sample::sample(&card.up(&logits), &rows).unwrap();
    for at in [0, 1, 4, 7, 69] {
        let logits = card.up(&logits.narrow(0, at, 1).unwrap().copy().unwrap());
        let alone = sample::sample(&logits, &rows[at..=at]).unwrap();
        assert_eq!(alone[0], together[at]);
    }
}
