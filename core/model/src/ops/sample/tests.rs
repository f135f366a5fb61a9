//! Sampling of rows by formulas.

use super::*;
use crate::ops::testing::{random, values};
use candle_core::{D, Device};

fn row(choice: Choice, place: u64) -> Row {
    let draw = Draw {
        seed: 7,
        answer: 1,
        place,
    };
    Row::plain(choice, draw)
}

const DRAWN: Choice = Choice {
    temperature: 1.0,
    ..Choice::GREEDY
};

#[test]
fn a_row_is_changed_masked_and_told_with_its_log_probability() {
    let logits = Tensor::new(
        &[[3f32, 2.0, -1.0, 0.5], [3.0, 2.0, -1.0, 0.5]],
        &Device::Cpu,
    );
    let logits = logits.unwrap();
    let mut changed = row(Choice::GREEDY, 0);
    changed.penalties = Penalties {
        repetition: 2.0,
        frequency: 0.25,
        presence: 0.5,
    };
    let listed = |token, bias, count, seen| Listed {
        token,
        bias,
        count,
        seen,
    };
    // 3 / 2 - 2 * 0.25 - 0.5, 2 / 2, and -1 + 3 with the penalty on repetition.
    changed.listed = vec![
        listed(0, 0.0, 2, true),
        listed(1, 0.0, 0, true),
        listed(2, 3.0, 0, false),
    ];
    let mut masked = row(Choice::GREEDY, 0);
    masked.allowed = Some(vec![0b1100]);
    let found = sample(&logits, &[changed.clone(), masked.clone()]).unwrap();
    let softmax = candle_log_softmax(&logits);
    for (sampled, (at, token)) in found.iter().zip([(0, 2), (1, 3)]) {
        assert_eq!(sampled.token, token as u32);
        assert!((f64::from(sampled.logprob) - softmax[at * 4 + token]).abs() < 1e-6);
    }
    masked.allowed = Some(vec![0]);
    let error = sample(&logits, &[changed.clone(), masked.clone()]).unwrap_err();
    assert!(error.to_string().contains("row Some(1)"), "{error}");
    masked.allowed = Some(vec![1, 1]);
    let error = sample(&logits, &[changed.clone(), masked]).unwrap_err();
    assert!(
        format!("{error:#}").starts_with("row 1: a mask"),
        "{error:#}"
    );
    changed.listed.swap(0, 1);
    assert!(sample(&logits, &[changed.clone(), changed]).is_err());
    for bad in [f32::NAN, f32::INFINITY] {
        let logits = Tensor::new(&[[0f32, bad]], &Device::Cpu).unwrap();
        assert!(sample(&logits, &[row(DRAWN, 0)]).is_err());
    }
}

fn candle_log_softmax(logits: &Tensor) -> Vec<f64> {
    let sums = logits.exp().unwrap().sum_keepdim(D::Minus1).unwrap();
    values(&logits.broadcast_sub(&sums.log().unwrap()).unwrap())
}

#[test]
fn draws_walk_the_kept_tokens_by_index() {
    let logits: Vec<f32> = values(&random(1, &[50]))
        .iter()
        .map(|&x| 2.0 * x as f32)
        .collect();
    for (top_k, top_p, min_p) in [(0, 1.0, 0.0), (9, 1.0, 0.0), (0, 0.6, 0.0), (20, 0.9, 0.05)] {
        let choice = Choice {
            top_k,
            top_p,
            min_p,
            ..DRAWN
        };
        let kept = choice.kept(&logits);
        assert!(kept.is_sorted_by_key(|(token, _)| *token));
        assert!((kept.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-12);
        for place in 0..200 {
            let draw = row(choice, place).draw;
            let token = choice.token(&logits, draw);
            let before: f64 = kept
                .iter()
                .take_while(|(t, _)| *t < token)
                .map(|(_, p)| p)
                .sum();
            let own = kept.iter().find(|(t, _)| *t == token).unwrap().1;
            let unit = draw.unit();
            assert!(before - 1e-12 <= unit && unit < before + own + 1e-12);
        }
    }
}
