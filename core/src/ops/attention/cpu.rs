//! Attention on the CPU: a task per sequence and key head, in f32.

use super::super::{Heads, SeqLayout, host};
use super::Saved;
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// First visible key of query `i`.
pub fn first_key(i: usize, window: Option<usize>) -> usize {
    window.map_or(0, |window| (i + 1).saturating_sub(window))
}

/// Reads heads out of `[q | k | v]` rows.
struct Rows<'a> {
    qkv: &'a [f32],
    heads: Heads,
}

impl<'a> Rows<'a> {
    fn part(&self, token: usize, head: usize) -> &'a [f32] {
        let start = token * self.heads.width() + head * self.heads.dim;
        &self.qkv[start..start + self.heads.dim]
    }
    fn q(&self, token: usize, head: usize) -> &'a [f32] {
        self.part(token, head)
    }
    fn k(&self, token: usize, head: usize) -> &'a [f32] {
        self.part(token, self.heads.q + head)
    }
    fn v(&self, token: usize, head: usize) -> &'a [f32] {
        self.part(token, self.heads.q + self.heads.kv + head)
    }
}

/// Inner product with eight running sums, so that it vectorises in a fixed order.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a8
        .remainder()
        .iter()
        .zip(b8.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a8.zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}

/// `y += a * x`.
pub fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// Tasks: each sequence with each key head.
fn tasks(seqs: &SeqLayout, heads: Heads) -> Vec<(usize, usize, usize)> {
    seqs.ranges()
        .flat_map(|(start, end)| (0..heads.kv).map(move |g| (start, end, g)))
        .collect()
}

/// See [`super::forward`].
pub fn forward(
    qkv: &Tensor,
    sinks: &Tensor,
    seqs: &SeqLayout,
    heads: Heads,
    window: Option<usize>,
) -> Result<(Tensor, Tensor)> {
    let t = seqs.tokens();
    let (group, dim) = (heads.q / heads.kv, heads.dim);
    let scale = 1.0 / (dim as f32).sqrt();
    host::with2(qkv, sinks, |qkv, sinks| {
        let rows = Rows { qkv, heads };
        let parts: Vec<(Vec<f32>, Vec<f32>)> = tasks(seqs, heads)
            .into_par_iter()
            .map(|(start, end, g)| {
                let len = end - start;
                let mut out = vec![0f32; group * len * dim];
                let mut lse = vec![0f32; group * len];
                let mut scores = vec![0f32; len];
                for h in 0..group {
                    let sink = sinks[g * group + h];
                    for i in 0..len {
                        let q = rows.q(start + i, g * group + h);
                        let first = first_key(i, window);
                        let scores = &mut scores[first..=i];
                        let mut max = sink;
                        for (j, s) in scores.iter_mut().enumerate() {
                            *s = dot(q, rows.k(start + first + j, g)) * scale;
                            max = max.max(*s);
                        }
                        let mut sum = (sink - max).exp();
                        for s in scores.iter_mut() {
                            *s = (*s - max).exp();
                            sum += *s;
                        }
                        let at = (h * len + i) * dim;
                        let out = &mut out[at..at + dim];
                        for (j, &p) in scores.iter().enumerate() {
                            axpy(out, p / sum, rows.v(start + first + j, g));
                        }
                        lse[h * len + i] = max + sum.ln();
                    }
                }
                (out, lse)
            })
            .collect();
        let mut out = vec![0f32; t * heads.q * dim];
        let mut lse = vec![0f32; heads.q * t];
        for ((start, end, g), (part, part_lse)) in tasks(seqs, heads).into_iter().zip(parts) {
            let len = end - start;
            for h in 0..group {
                let head = g * group + h;
                lse[head * t + start..head * t + end]
                    .copy_from_slice(&part_lse[h * len..(h + 1) * len]);
                for i in 0..len {
                    let to = (start + i) * heads.q * dim + head * dim;
                    let from = (h * len + i) * dim;
                    out[to..to + dim].copy_from_slice(&part[from..from + dim]);
                }
            }
        }
        Ok((
            host::f32s(out, (t, heads.q * dim)),
            host::f32s(lse, (heads.q, t)),
        ))
    })
}

/// Gradients of one task: queries `[group, len, D]`, keys and values `[len, D]`, sinks `[group]`.
struct Part {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    dsinks: Vec<f32>,
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
    let t = seqs.tokens();
    let (group, dim) = (heads.q / heads.kv, heads.dim);
    let scale = 1.0 / (dim as f32).sqrt();
    host::with2(qkv, sinks, |qkv, sinks| {
        host::with3(&saved.out, &saved.lse, dout, |out, lse, dout| {
            let rows = Rows { qkv, heads };
            let head_of = |token: usize, head: usize| {
                let start = (token * heads.q + head) * dim;
                start..start + dim
            };
            let parts: Vec<Part> = tasks(seqs, heads)
                .into_par_iter()
                .map(|(start, end, g)| {
                    let len = end - start;
                    let mut part = Part {
                        dq: vec![0f32; group * len * dim],
                        dk: vec![0f32; len * dim],
                        dv: vec![0f32; len * dim],
                        dsinks: vec![0f32; group],
                    };
                    for h in 0..group {
                        let head = g * group + h;
                        for i in 0..len {
                            let token = start + i;
                            let q = rows.q(token, head);
                            let d = &dout[head_of(token, head)];
                            let delta = dot(d, &out[head_of(token, head)]);
                            let lse = lse[head * t + token];
                            part.dsinks[h] -= (sinks[head] - lse).exp() * delta;
                            let dq = &mut part.dq[(h * len + i) * dim..(h * len + i + 1) * dim];
                            for j in first_key(i, window)..=i {
                                let (k, v) = (rows.k(start + j, g), rows.v(start + j, g));
                                let p = (dot(q, k) * scale - lse).exp();
                                axpy(&mut part.dv[j * dim..(j + 1) * dim], p, d);
                                let ds = p * (dot(d, v) - delta) * scale;
                                axpy(dq, ds, k);
                                axpy(&mut part.dk[j * dim..(j + 1) * dim], ds, q);
                            }
                        }
                    }
                    part
                })
                .collect();
            let width = heads.width();
            let mut dqkv = vec![0f32; t * width];
            let mut dsinks = vec![0f32; heads.q];
            for ((start, end, g), part) in tasks(seqs, heads).into_iter().zip(parts) {
                let len = end - start;
                let mut put = |token: usize, head: usize, values: &[f32]| {
                    let to = token * width + head * dim;
                    dqkv[to..to + dim].copy_from_slice(values);
                };
                for i in 0..len {
                    for h in 0..group {
                        let from = (h * len + i) * dim;
                        put(start + i, g * group + h, &part.dq[from..from + dim]);
                    }
                    let from = i * dim..(i + 1) * dim;
                    put(start + i, heads.q + g, &part.dk[from.clone()]);
                    put(start + i, heads.q + heads.kv + g, &part.dv[from]);
                }
                for (h, d) in part.dsinks.iter().enumerate() {
                    dsinks[g * group + h] += d;
                }
            }
            Ok((host::f32s(dqkv, (t, width)), host::f32s(dsinks, heads.q)))
        })
    })
}
