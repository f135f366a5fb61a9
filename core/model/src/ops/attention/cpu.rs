//! Attention on the CPU, in f32: one task for each sequence and query head, which takes blocks of queries against all
//! keys that they see.

use super::super::simd::{LANES, dot, exp_in_place, max, simd};
use super::super::small_matmul::{MatrixView, add_product, transposed};
use super::super::{Heads, SeqLayout, host};
use super::Saved;
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;
use std::ops::Range;

/// The number of queries that go through the products together.
const BLOCK: usize = 32;

/// The first key that query `i` sees.
pub fn first_key(i: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (i + 1).saturating_sub(window))
}

/// One query head of one sequence, with its part of the `[q | k | v]` rows.
struct Task<'a> {
    qkv: &'a [f32],
    heads: Heads,
    window: Option<usize>,
    start: usize,
    len: usize,
    head: usize,
}

fn tasks<'a>(
    qkv: &'a [f32],
    seqs: &SeqLayout,
    heads: Heads,
    window: Option<usize>,
) -> Vec<Task<'a>> {
    let task = |start, end, head| Task {
        qkv,
        heads,
        window,
        start,
        len: end - start,
        head,
    };
    seqs.ranges()
        .flat_map(|(start, end)| (0..heads.q).map(move |head| task(start, end, head)))
        .collect()
}

/// A block of queries and the keys that any of them sees, from a multiple of [`LANES`].
struct QueryBlock {
    queries: Range<usize>,
    keys: Range<usize>,
}

impl<'a> Task<'a> {
    fn group(&self) -> usize {
        self.head / (self.heads.q / self.heads.kv)
    }

    fn part(&self, token: usize, head: usize) -> MatrixView<'a> {
        let rows = MatrixView::rows(self.qkv, self.heads.width());
        rows.from(self.start + token, head * self.heads.dim)
    }

    fn q(&self, from: usize) -> MatrixView<'a> {
        self.part(from, self.head)
    }

    fn k(&self, from: usize) -> MatrixView<'a> {
        self.part(from, self.heads.q + self.group())
    }

    fn v(&self, from: usize) -> MatrixView<'a> {
        self.part(from, self.heads.q + self.heads.kv + self.group())
    }

    /// The width of rows over keys: the number of keys, padded.
    fn stride(&self) -> usize {
        self.len.next_multiple_of(LANES)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.heads.dim as f32).sqrt()
    }

    /// The keys as `[D, stride]`, scaled for scores.
    fn scaled_keys(&self) -> Vec<f32> {
        let mut keys = transposed(self.k(0), self.len, self.heads.dim, self.stride());
        keys.iter_mut().for_each(|k| *k *= self.scale());
        keys
    }

    fn blocks(&self) -> impl Iterator<Item = QueryBlock> {
        let (len, window) = (self.len, self.window);
        (0..len).step_by(BLOCK).map(move |first| {
            let end = (first + BLOCK).min(len);
            let from = first_key(first, window);
            QueryBlock {
                queries: first..end,
                keys: from - from % LANES..end,
            }
        })
    }

    /// `rows` `[block, D]` times transposed keys or values, to `out` `[block, stride]`, keys of the block first.
    fn against(&self, rows: MatrixView<'_>, columns: &[f32], block: &QueryBlock, out: &mut [f32]) {
        let (stride, width) = (self.stride(), block.keys.len().next_multiple_of(LANES));
        let count = block.queries.len();
        for row in out.chunks_mut(stride).take(count) {
            row[..width].fill(0.0);
        }
        let columns = MatrixView::rows(&columns[block.keys.start..], stride);
        add_product(rows, columns, out, stride, [count, width, self.heads.dim]);
    }

    /// The part of a block's row that query `i` sees; the rest of the row becomes 0.
    fn seen<'r>(&self, i: usize, block: &QueryBlock, row: &'r mut [f32]) -> &'r mut [f32] {
        let from = first_key(i, self.window) - block.keys.start;
        let to = i + 1 - block.keys.start;
        row[..from].fill(0.0);
        row[to..block.keys.len()].fill(0.0);
        &mut row[from..to]
    }

    /// Returns the output `[len, D]` and the log-sum-exp `[len]`.
    fn forward(&self, sink: f32) -> (Vec<f32>, Vec<f32>) {
        let (dim, stride) = (self.heads.dim, self.stride());
        let keys = self.scaled_keys();
        let (mut out, mut lse) = (vec![0f32; self.len * dim], vec![0f32; self.len]);
        let mut scores = vec![0f32; BLOCK * stride];
        for block in self.blocks() {
            self.against(self.q(block.queries.start), &keys, &block, &mut scores);
            for (i, row) in block.queries.clone().zip(scores.chunks_mut(stride)) {
                let row = self.seen(i, &block, row);
                let top = max(row, sink);
                let sum = (sink - top).exp() + exp_in_place(row, top);
                lse[i] = top + sum.ln();
                row.iter_mut().for_each(|p| *p /= sum);
            }
            add_product(
                MatrixView::rows(&scores, stride),
                self.v(block.keys.start),
                &mut out[block.queries.start * dim..],
                dim,
                [block.queries.len(), dim, block.keys.len()],
            );
        }
        (out, lse)
    }

    /// Returns the gradients from those of the output, `dout`, and what the forward pass gave: rows `[Q D]` of the sequence,
    /// from this head on, and its `lse`.
    fn backward(
        &self,
        sink: f32,
        out: MatrixView<'_>,
        lse: &[f32],
        dout: MatrixView<'_>,
    ) -> HeadGrads {
        let (dim, stride) = (self.heads.dim, self.stride());
        let keys = self.scaled_keys();
        let values = transposed(self.v(0), self.len, dim, stride);
        let mut part = HeadGrads::new(self.len * dim);
        let mut p = vec![0f32; BLOCK * stride];
        let mut ds = vec![0f32; BLOCK * stride];
        for block in self.blocks() {
            let (first, from) = (block.queries.start, block.keys.start);
            let dout_block = dout.from(first, 0);
            self.against(self.q(first), &keys, &block, &mut p);
            self.against(dout_block, &values, &block, &mut ds);
            let rows = p.chunks_mut(stride).zip(ds.chunks_mut(stride));
            for (i, (p, ds)) in block.queries.clone().zip(rows) {
                exp_in_place(self.seen(i, &block, p), lse[i]);
                let row = |m: MatrixView<'_>| i * m.row..i * m.row + dim;
                let delta = dot(&out.data[row(out)], &dout.data[row(dout)]);
                part.dsink -= (sink - lse[i]).exp() * delta;
                score_gradient(ds, p, delta);
            }
            let (queries, keys) = (block.queries.len(), block.keys.len());
            let (p, ds) = (MatrixView::rows(&p, stride), MatrixView::rows(&ds, stride));
            let [dv, dk] = [&mut part.dv, &mut part.dk].map(|d| &mut d[from * dim..]);
            add_product(p.t(), dout_block, dv, dim, [keys, dim, queries]);
            add_product(ds.t(), self.q(first), dk, dim, [keys, dim, queries]);
            let dq = &mut part.dq[first * dim..];
            add_product(ds, self.k(from), dq, dim, [queries, dim, keys]);
        }
        let scale = self.scale();
        for d in part.dq.iter_mut().chain(&mut part.dk) {
            *d *= scale;
        }
        part
    }
}

simd! {
    /// Writes `p * (dp - delta)` over `dp`; `p` is 0 for keys that are not visible.
    fn score_gradient(dp: &mut [f32], p: &[f32], delta: f32) {
        for (dp, p) in dp.iter_mut().zip(p) {
            *dp = p * (*dp - delta);
        }
    }
}

/// The gradients of a task, `[len, D]` each.
struct HeadGrads {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    dsink: f32,
}

impl HeadGrads {
    fn new(count: usize) -> Self {
        Self {
            dq: vec![0f32; count],
            dk: vec![0f32; count],
            dv: vec![0f32; count],
            dsink: 0.0,
        }
    }
}

/// See [`super::forward`].
pub fn forward(
    qkv: &Tensor,
    sinks: &Tensor,
    seqs: &SeqLayout,
    heads: Heads,
    window: Option<usize>,
) -> Result<(Tensor, Tensor)> {
    let (t, dim) = (seqs.tokens(), heads.dim);
    host::with2(qkv, sinks, |qkv, sinks| {
        let tasks = tasks(qkv, seqs, heads, window);
        let parts: Vec<(Vec<f32>, Vec<f32>)> = tasks
            .par_iter()
            .map(|task| task.forward(sinks[task.head]))
            .collect();
        let mut out = vec![0f32; t * heads.q * dim];
        let mut lse = vec![0f32; heads.q * t];
        for (task, (part, part_lse)) in tasks.iter().zip(parts) {
            lse[task.head * t + task.start..][..task.len].copy_from_slice(&part_lse);
            for (i, part) in part.chunks(dim).enumerate() {
                let to = ((task.start + i) * heads.q + task.head) * dim;
                out[to..to + dim].copy_from_slice(part);
            }
        }
        Ok((
            host::f32s(out, (t, heads.q * dim)),
            host::f32s(lse, (heads.q, t)),
        ))
    })
}

/// See [`super::backward`].
pub fn backward(
    qkv: &Tensor,
    sinks: &Tensor,
    seqs: &SeqLayout,
    heads: Heads,
    window: Option<usize>,
    saved: &Saved,
    dout: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let (t, dim, row) = (seqs.tokens(), heads.dim, heads.q * heads.dim);
    host::with2(qkv, sinks, |qkv, sinks| {
        host::with3(&saved.out, &saved.lse, dout, |out, lse, dout| {
            let tasks = tasks(qkv, seqs, heads, window);
            let parts: Vec<HeadGrads> = tasks
                .par_iter()
                .map(|task| {
                    let rows = |x| MatrixView::rows(x, row).from(task.start, task.head * dim);
                    let lse = &lse[task.head * t + task.start..][..task.len];
                    let (out, dout) = (rows(out), rows(dout));
                    task.backward(sinks[task.head], out, lse, dout)
                })
                .collect();
            let width = heads.width();
            let (mut dqkv, mut dsinks) = (vec![0f32; t * width], vec![0f32; heads.q]);
            for (task, part) in tasks.iter().zip(&parts) {
                dsinks[task.head] += part.dsink;
                let (k, v) = (heads.q + task.group(), heads.q + heads.kv + task.group());
                for (head, part) in [(task.head, &part.dq), (k, &part.dk), (v, &part.dv)] {
                    for (i, part) in part.chunks(dim).enumerate() {
                        let to = (task.start + i) * width + head * dim;
                        for (d, part) in dqkv[to..to + dim].iter_mut().zip(part) {
                            *d += part;
                        }
                    }
                }
            }
            Ok((host::f32s(dqkv, (t, width)), host::f32s(dsinks, heads.q)))
        })
    })
}
