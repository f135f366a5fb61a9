//! Attention over pages against attention over whole sequences.

use super::*;
use crate::ops::testing::{close, random, values};
use crate::ops::{SeqLayout, attention, rope};
use candle_core::{Device, Tensor};

const HEADS: Heads = Heads {
    q: 4,
    kv: 2,
    dim: 8,
};

fn table() -> RopeTable {
    RopeTable {
        cos: random(80, &[64, HEADS.dim / 2]),
        sin: random(81, &[64, HEADS.dim / 2]),
    }
}

/// Sequences of these lengths, whose pages lie in the pools in an order that belongs to nobody.
struct Setting {
    lengths: Vec<usize>,
    rows: Vec<Tensor>,
    keys: Tensor,
    values: Tensor,
}

impl Setting {
    fn new(lengths: &[usize]) -> Self {
        let rows = lengths.iter().enumerate();
        let pool = || Tensor::full(f32::NAN, (64 * PAGE, HEADS.kv * HEADS.dim), &Device::Cpu);
        Self {
            lengths: lengths.to_vec(),
            rows: rows
                .map(|(i, &length)| random(i as u64 + 1, &[length, HEADS.width()]))
                .collect(),
            keys: pool().unwrap(),
            values: pool().unwrap(),
        }
    }

    fn page(&self, sequence: usize, index: usize) -> u32 {
        (63 - (index * self.lengths.len() + sequence)) as u32
    }

    /// The layout of a step that takes these positions of each sequence. Pages that a window has passed are gone.
    fn layout(&self, parts: &[std::ops::Range<usize>], window: Option<usize>) -> PagedLayout {
        let width = self.lengths.iter().max().unwrap().div_ceil(PAGE);
        let mut host = HostLayout::new();
        for (sequence, part) in parts
            .iter()
            .enumerate()
            .filter(|(_, part)| !part.is_empty())
        {
            for position in part.clone() {
                let page = self.page(sequence, position / PAGE);
                host.positions.push(position as u32);
                host.slots
                    .push(page * PAGE as u32 + (position % PAGE) as u32);
            }
            host.starts.push(host.positions.len() as u32);
            host.lengths.push(part.end as u32);
            let gone = window.map_or(0, |w| (part.start + 1).saturating_sub(w) / PAGE);
            let table = (0..width).map(|i| if i < gone { 0 } else { self.page(sequence, i) });
            host.pages.extend(table);
        }
        PagedLayout::new(host, &Device::Cpu).unwrap()
    }

    fn step(
        &self,
        parts: &[std::ops::Range<usize>],
        window: Option<usize>,
        sinks: Option<&Tensor>,
    ) -> Tensor {
        let rows: Vec<Tensor> = self
            .rows
            .iter()
            .zip(parts)
            .map(|(rows, part)| rows.narrow(0, part.start, part.len()).unwrap())
            .collect();
        let rows = Tensor::cat(&rows, 0).unwrap();
        let layout = self.layout(parts, window);
        let rows =
            rotate_and_write(&rows, &table(), &self.keys, &self.values, &layout, HEADS).unwrap();
        attend(
            &rows,
            &self.keys,
            &self.values,
            &layout,
            sinks,
            HEADS,
            window,
        )
        .unwrap()
    }
}

#[test]
fn pages_give_what_whole_sequences_give() {
    let lengths = [37, 1, 50, 16];
    let sinks = random(90, &[HEADS.q]);
    // New tokens of several sequences together, prefilled in chunks that end anywhere, and decoded.
    let steps = [
        [0..20, 0..1, 0..33, 0..15],
        [20..36, 1..1, 33..34, 15..16],
        [36..37, 1..1, 34..50, 16..16],
    ];
    let windows = [None, Some(1), Some(5), Some(16), Some(30)];
    let sinks = [Some(&sinks), None].map(|sinks| windows.map(|window| (sinks, window)));
    for (sinks, window) in sinks.into_iter().flatten() {
        let setting = Setting::new(&lengths);
        let mut found = vec![Vec::new(); lengths.len()];
        for parts in &steps {
            let out = setting.step(parts, window, sinks);
            let mut at = 0;
            for (found, part) in found.iter_mut().zip(parts) {
                found.push(out.narrow(0, at, part.len()).unwrap());
                at += part.len();
            }
        }
        for ((rows, found), length) in setting.rows.iter().zip(found).zip(lengths) {
            let seqs = SeqLayout::new(&[length], &Device::Cpu).unwrap();
            let rows = rope::apply(rows, &table(), &seqs.positions, HEADS, false).unwrap();
            let (whole, _) = attention::forward(&rows, sinks, &seqs, HEADS, window).unwrap();
            close(&Tensor::cat(&found, 0).unwrap(), &values(&whole), 1e-5);
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_beside_others() {
    let sinks = random(90, &[HEADS.q]);
    let lengths = [40, 23];
    let [together, alone] = [0, 1].map(|_| Setting::new(&lengths));
    let both = together.step(&[0..40, 0..23], Some(7), Some(&sinks));
    let first = alone.step(&[0..40, 0..0], Some(7), Some(&sinks));
    let second = alone.step(&[0..0, 0..23], Some(7), Some(&sinks));
    let apart = Tensor::cat(&[first, second], 0).unwrap();
    assert_eq!(values(&both), values(&apart));
}

#[test]
fn a_layout_whose_parts_do_not_fit_is_an_error() {
    let good = HostLayout {
        positions: vec![3, 4],
        slots: vec![3, 4],
        starts: vec![0, 2],
        lengths: vec![5],
        pages: vec![0],
    };
    PagedLayout::new(good.clone(), &Device::Cpu).unwrap();
    for bad in [
        HostLayout {
            lengths: vec![6],
            ..good.clone()
        },
        HostLayout {
            lengths: vec![5, 5],
            ..good.clone()
        },
        HostLayout {
            slots: vec![3],
            ..good.clone()
        },
        HostLayout {
            positions: vec![15, 16],
            lengths: vec![17],
            ..good.clone()
        },
    ] {
        assert!(PagedLayout::new(bad, &Device::Cpu).is_err());
    }
    let layout = PagedLayout::new(good, &Device::Cpu).unwrap();
    let pool = random(1, &[PAGE, HEADS.kv * HEADS.dim]);
    let rows = random(2, &[3, HEADS.width()]);
    assert!(rotate_and_write(&rows, &table(), &pool, &pool, &layout, HEADS).is_err());
    let short = RopeTable {
        cos: random(1, &[4, HEADS.dim / 2]),
        sin: random(2, &[4, HEADS.dim / 2]),
    };
    let rows = random(2, &[2, HEADS.width()]);
    let error = rotate_and_write(&rows, &short, &pool, &pool, &layout, HEADS).unwrap_err();
    assert!(error.to_string().contains("position Some(4)"), "{error}");
}
