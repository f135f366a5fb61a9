//! Attention: packed sequences of uneven lengths, windows shorter and longer than they are, and the cache.

use crate::support::{CHAINED, Card, Limit, agree, card};
use apus_model::ops::attention::{self, Saved};
use apus_model::ops::{Heads, SeqLayout};
use candle_core::Device;

/// Log-sum-exp: f32 sums of exponentials of scores from bf16 products.
const LSE: Limit = Limit {
    greatest: 2e-3,
    norm: 1e-3,
};
/// Gradients: probabilities and score gradients are rounded to bf16 before the second product.
const GRADIENT: Limit = Limit {
    greatest: 2e-2,
    norm: 1e-2,
};

const LENGTHS: [usize; 6] = [1, 5, 130, 257, 64, 3];

fn packed(card: &Card, heads: Heads, lengths: &[usize], window: Option<usize>) {
    for sinks in [true, false] {
        packed_with(card, heads, lengths, window, sinks);
    }
}

fn packed_with(card: &Card, heads: Heads, lengths: &[usize], window: Option<usize>, sunk: bool) {
    let what = format!("attention {heads:?} window {window:?} sinks {sunk}");
    let t: usize = lengths.iter().sum();
    let cpu = SeqLayout::new(lengths, &Device::Cpu).unwrap();
    let gpu = SeqLayout::new(lengths, &card.device).unwrap();
    let qkv = card.normal(1, &[t, heads.width()], 1.0);
    let sinks = card.normal(2, &[heads.q], 1.0);
    let (on, off) = (sunk.then_some(&sinks.gpu), sunk.then_some(&sinks.cpu));
    let dout = card.normal(3, &[t, heads.q * heads.dim], 1.0);
    let (out, lse) = attention::forward(&qkv.gpu, on, &gpu, heads, window).unwrap();
    let (cpu_out, cpu_lse) = attention::forward(&qkv.cpu, off, &cpu, heads, window).unwrap();
    agree(&what, &out, &cpu_out, CHAINED);
    agree(&format!("{what} lse"), &lse, &cpu_lse, LSE);
    let saved = Saved { out, lse };
    let (dqkv, dsinks) =
        attention::backward(&qkv.gpu, on, &gpu, heads, window, &saved, &dout.gpu).unwrap();
    let saved = Saved {
        out: cpu_out,
        lse: cpu_lse,
    };
    let (cpu_dqkv, cpu_dsinks) =
        attention::backward(&qkv.cpu, off, &cpu, heads, window, &saved, &dout.cpu).unwrap();
    let (q, kv) = (heads.q * heads.dim, heads.kv * heads.dim);
    for (part, start, width) in [("dq", 0, q), ("dk", q, kv), ("dv", q + kv, kv)] {
        let (found, expected) = (
            dqkv.narrow(1, start, width).unwrap(),
            cpu_dqkv.narrow(1, start, width).unwrap(),
        );
        agree(&format!("{what} {part}"), &found, &expected, GRADIENT);
    }
    assert_eq!((dsinks.is_some(), cpu_dsinks.is_some()), (sunk, sunk));
    if let (Some(dsinks), Some(cpu_dsinks)) = (dsinks, cpu_dsinks) {
        agree(&format!("{what} dsinks"), &dsinks, &cpu_dsinks, GRADIENT);
    }
}

#[test]
fn every_head_dim_packed() {
    let Some(card) = card() else { return };
    for dim in [16, 32, 64, 128] {
        for window in [None, Some(7), Some(128), Some(1000)] {
            packed(&card, Heads { q: 4, kv: 2, dim }, &LENGTHS, window);
        }
    }
}

#[test]
fn head_groups_of_all_kinds() {
    let Some(card) = card() else { return };
    for (q, kv) in [(1, 1), (6, 2), (8, 1), (16, 2)] {
        packed(&card, Heads { q, kv, dim: 64 }, &[200, 61], Some(100));
    }
    packed(
        &card,
        Heads {
            q: 64,
            kv: 8,
            dim: 64,
        },
        &[513],
        Some(128),
    );
    packed(
        &card,
        Heads {
            q: 64,
            kv: 8,
            dim: 64,
        },
        &[513],
        None,
    );
}

#[test]
fn runs_repeat_bit_for_bit() {
    let Some(card) = card() else { return };
    let heads = Heads {
        q: 8,
        kv: 2,
        dim: 64,
    };
    let seqs = SeqLayout::new(&[300, 41], &card.device).unwrap();
    let qkv = card.normal(1, &[341, heads.width()], 1.0).gpu;
    let sinks = card.normal(2, &[heads.q], 1.0).gpu;
    let dout = card.normal(3, &[341, heads.q * heads.dim], 1.0).gpu;
    let run = || {
        let (out, lse) = attention::forward(&qkv, Some(&sinks), &seqs, heads, Some(64)).unwrap();
        let saved = Saved { out, lse };
        let (dqkv, dsinks) =
            attention::backward(&qkv, Some(&sinks), &seqs, heads, Some(64), &saved, &dout).unwrap();
        [saved.out, saved.lse, dqkv, dsinks.unwrap()]
    };
    for (first, second) in run().iter().zip(&run()) {
        crate::support::same("attention, second run", second, first);
    }
}
