use super::super::testing::{close, dot, finite_differences, random, values};
use super::*;
use candle_core::Device;

const HEADS: Heads = Heads {
    q: 4,
    kv: 2,
    dim: 3,
};

fn seqs(lengths: &[usize]) -> SeqLayout {
    SeqLayout::new(lengths, &Device::Cpu).unwrap()
}

/// Softmax over all keys with a mask and the sink as one more column, in f64.
fn reference(qkv: &[f64], sinks: &[f64], lengths: &[usize], window: Option<usize>) -> Vec<f64> {
    let (width, mut start) = (HEADS.width(), 0);
    let mut out = Vec::new();
    for &len in lengths {
        for i in 0..len {
            for (h, sink) in sinks.iter().enumerate() {
                let part = |token: usize, head: usize| {
                    &qkv[(start + token) * width + head * 3..(start + token) * width + head * 3 + 3]
                };
                let g = h / 2;
                let visible = |j: usize| j <= i && window.is_none_or(|w| i - j < w);
                let score = |j: usize| -> f64 {
                    part(i, h)
                        .iter()
                        .zip(part(j, 4 + g))
                        .map(|(a, b)| a * b)
                        .sum::<f64>()
                        / 3f64.sqrt()
                };
                let keys: Vec<usize> = (0..len).filter(|&j| visible(j)).collect();
                let total = sink.exp() + keys.iter().map(|&j| score(j).exp()).sum::<f64>();
                for d in 0..3 {
                    out.push(
                        keys.iter()
                            .map(|&j| score(j).exp() / total * part(j, 6 + g)[d])
                            .sum(),
                    );
                }
            }
        }
        start += len;
    }
    out
}

#[test]
fn forward_by_the_formula() {
    let sinks = random(2, &[4]);
    for (lengths, window) in [
        (vec![7], None),
        (vec![7, 1, 5], None),
        (vec![9, 4], Some(3)),
        (vec![3], Some(8)),
        (vec![4], Some(1)),
        (vec![70, 33], None),
        (vec![5, 90], Some(19)),
        (vec![64, 40], Some(50)),
    ] {
        let t: usize = lengths.iter().sum();
        let qkv = random(1, &[t, HEADS.width()]);
        let (out, lse) = forward(&qkv, Some(&sinks), &seqs(&lengths), HEADS, window).unwrap();
        close(
            &out,
            &reference(&values(&qkv), &values(&sinks), &lengths, window),
            1e-5,
        );
        assert_eq!(lse.dims(), [4, t]);
    }
}

#[test]
fn gradients() {
    let sinks = random(2, &[4]);
    for (lengths, window) in [
        (vec![6], None),
        (vec![5, 1, 4], Some(3)),
        (vec![3, 67], Some(21)),
        (vec![35, 40], None),
    ] {
        let seqs = seqs(&lengths);
        let qkv = random(1, &[seqs.tokens(), HEADS.width()]);
        let dout = random(3, &[seqs.tokens(), 12]);
        let f = |qkv: &Tensor, sinks: &Tensor| {
            dot(
                &forward(qkv, Some(sinks), &seqs, HEADS, window).unwrap().0,
                &dout,
            )
        };
        let (out, lse) = forward(&qkv, Some(&sinks), &seqs, HEADS, window).unwrap();
        let saved = Saved { out, lse };
        let (dqkv, dsinks) =
            backward(&qkv, Some(&sinks), &seqs, HEADS, window, &saved, &dout).unwrap();
        finite_differences(&qkv, &dqkv, |qkv| f(qkv, &sinks));
        finite_differences(&sinks, &dsinks.unwrap(), |sinks| f(&qkv, sinks));
    }
}

/// Without sinks, the softmax is over keys alone: forward by the formula, backward by differences.
#[test]
fn heads_without_sinks() {
    let none = [f64::NEG_INFINITY; 4];
    for (lengths, window) in [(vec![6], None), (vec![5, 1, 40], Some(3))] {
        let seqs = seqs(&lengths);
        let t = seqs.tokens();
        let (qkv, dout) = (random(1, &[t, HEADS.width()]), random(3, &[t, 12]));
        let (out, lse) = forward(&qkv, None, &seqs, HEADS, window).unwrap();
        close(
            &out,
            &reference(&values(&qkv), &none, &lengths, window),
            1e-5,
        );
        assert!(values(&lse).iter().all(|lse| lse.is_finite()));
        let saved = Saved { out, lse };
        let (dqkv, dsinks) = backward(&qkv, None, &seqs, HEADS, window, &saved, &dout).unwrap();
        assert!(dsinks.is_none());
        finite_differences(&qkv, &dqkv, |qkv| {
            dot(&forward(qkv, None, &seqs, HEADS, window).unwrap().0, &dout)
        });
    }
}

#[test]
fn runs_repeat_bit_for_bit() {
    let (seqs, sinks) = (seqs(&[50, 7]), random(2, &[4]));
    let (qkv, dout) = (random(1, &[57, HEADS.width()]), random(3, &[57, 12]));
    let run = || {
        let (out, lse) = forward(&qkv, Some(&sinks), &seqs, HEADS, Some(20)).unwrap();
        let saved = Saved { out, lse };
        let (dqkv, dsinks) =
            backward(&qkv, Some(&sinks), &seqs, HEADS, Some(20), &saved, &dout).unwrap();
        [
            values(&saved.out),
            values(&saved.lse),
            values(&dqkv),
            values(&dsinks.unwrap()),
        ]
    };
    assert_eq!(run(), run());
}
