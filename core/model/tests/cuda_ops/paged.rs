//! Attention over pages: steps that mix sequences that decode, that begin and that go on with a prompt.

use crate::support::{CHAINED, Card, ROUNDED, agree, card, same};
use apus_model::ops::Heads;
use apus_model::ops::paged::{self, HostLayout, PAGE, PagedLayout};
use apus_model::ops::rope::RopeTable;
use candle_core::{Device, Tensor};
use std::ops::Range;

const PAGES: usize = 400;

/// The layout of new tokens at these positions; pages lie in the pools backwards, one sequence's between the others'.
fn layout(parts: &[Range<usize>]) -> HostLayout {
    let longest = parts.iter().map(|part| part.end).max().unwrap_or(0);
    let mut host = HostLayout::new();
    for (sequence, part) in parts.iter().enumerate() {
        let page = |index: usize| (PAGES - 1 - (index * parts.len() + sequence)) as u32;
        for position in part.clone() {
            let slot = page(position / PAGE) as usize * PAGE + position % PAGE;
            host.positions.push(position as u32);
            host.slots.push(slot as u32);
        }
        host.starts.push(host.positions.len() as u32);
        host.lengths.push(part.end as u32);
        host.pages.extend((0..longest.div_ceil(PAGE)).map(page));
    }
    host
}

struct Pools {
    keys: Tensor,
    values: Tensor,
}

fn step(
    qkv: &Tensor,
    table: &RopeTable,
    pools: &Pools,
    at: &PagedLayout,
    sinks: Option<&Tensor>,
    heads: Heads,
    window: Option<usize>,
) -> [Tensor; 2] {
    let Pools { keys, values } = pools;
    let rotated = paged::rotate_and_write(qkv, table, keys, values, at, heads).unwrap();
    let out = paged::attend(&rotated, keys, values, at, sinks, heads, window).unwrap();
    [rotated, out]
}

fn mixed(card: &Card, heads: Heads, window: Option<usize>, sunk: bool) {
    let width = heads.kv * heads.dim;
    let (k, v) = (
        card.normal(1, &[PAGES * PAGE, width], 1.0),
        card.normal(2, &[PAGES * PAGE, width], 1.0),
    );
    let (on, off) = (
        Pools {
            keys: k.gpu,
            values: v.gpu,
        },
        Pools {
            keys: k.cpu,
            values: v.cpu,
        },
    );
    let (cos, sin) = (
        card.normal_f32(3, &[1000, heads.dim / 2], 0.7),
        card.normal_f32(4, &[1000, heads.dim / 2], 0.7),
    );
    let (table_on, table_off) = (
        RopeTable {
            cos: cos.gpu,
            sin: sin.gpu,
        },
        RopeTable {
            cos: cos.cpu,
            sin: sin.cpu,
        },
    );
    let sinks = card.normal(5, &[heads.q], 1.0);
    let steps: [&[Range<usize>]; 4] = [
        &[0..130, 0..1, 0..40],
        &[499..500, 16..17, 0..1, 900..901],
        &[700..701, 100..260, 0..33, 40..41, 15..16],
        &[300..420, 77..80],
    ];
    for (at, parts) in steps.into_iter().enumerate() {
        let host = layout(parts);
        let gpu = PagedLayout::new(host.clone(), &card.device).unwrap();
        let cpu = PagedLayout::new(host, &Device::Cpu).unwrap();
        let qkv = card.normal(10 + at as u64, &[cpu.tokens(), heads.width()], 1.0);
        let (sinks_on, sinks_off) = (sunk.then_some(&sinks.gpu), sunk.then_some(&sinks.cpu));
        let found = step(&qkv.gpu, &table_on, &on, &gpu, sinks_on, heads, window);
        let expected = step(&qkv.cpu, &table_off, &off, &cpu, sinks_off, heads, window);
        let what = format!("pages {heads:?} window {window:?} sinks {sunk} step {at}");
        agree(&format!("{what} rotated"), &found[0], &expected[0], ROUNDED);
        agree(&what, &found[1], &expected[1], CHAINED);
        agree(&format!("{what} keys"), &on.keys, &off.keys, ROUNDED);
        agree(&format!("{what} values"), &on.values, &off.values, ROUNDED);
    }
}

#[test]
fn steps_of_all_kinds() {
    let Some(card) = card() else { return };
    for dim in [16, 32, 64, 128] {
        for window in [None, Some(3), Some(128)] {
            mixed(&card, Heads { q: 8, kv: 2, dim }, window, true);
        }
    }
    let heads = |q, kv| Heads { q, kv, dim: 64 };
    mixed(&card, heads(64, 8), None, false);
    mixed(&card, heads(24, 2), Some(100), true);
    mixed(&card, heads(3, 3), None, true);
}

#[test]
fn a_sequence_that_decodes_has_the_same_bits_alone_and_beside_others() {
    let Some(card) = card() else { return };
    let heads = Heads {
        q: 16,
        kv: 2,
        dim: 64,
    };
    let width = heads.kv * heads.dim;
    let pools = Pools {
        keys: card.normal(1, &[PAGES * PAGE, width], 1.0).gpu,
        values: card.normal(2, &[PAGES * PAGE, width], 1.0).gpu,
    };
    let host = layout(&[899..900, 3..4, 299..300]);
    let qkv = card.normal(3, &[3, heads.width()], 1.0).gpu;
    let attend = |host: HostLayout, qkv: &Tensor| {
        let at = PagedLayout::new(host, &card.device).unwrap();
        paged::attend(qkv, &pools.keys, &pools.values, &at, None, heads, None).unwrap()
    };
    let together = attend(host.clone(), &qkv);
    for sequence in 0..3 {
        let alone = HostLayout {
            positions: vec![host.positions[sequence]],
            slots: vec![host.slots[sequence]],
            starts: vec![0, 1],
            lengths: vec![host.lengths[sequence]],
            pages: host.table(sequence).to_vec(),
        };
        let found = attend(alone, &qkv.narrow(0, sequence, 1).unwrap());
        let what = format!("sequence {sequence} alone");
        same(&what, &found, &together.narrow(0, sequence, 1).unwrap());
    }
}
