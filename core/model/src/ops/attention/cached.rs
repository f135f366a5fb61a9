//! Attention over a cache of keys and values on the CPU: one task for each query and head.

use super::super::simd::{axpy, dot, exp_in_place, max};
use super::super::{Heads, host};
use super::cpu::first_key;
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Attends with queries `[Tq, Q D]` to keys and values `[Tk, KV D]`.
pub fn cached(
    q: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    sinks: &Tensor,
    heads: Heads,
    window: Option<usize>,
) -> Result<Tensor> {
    let ((tq, width), (tk, kv_width)) = (q.dims2()?, keys.dims2()?);
    let (group, dim) = (heads.q / heads.kv, heads.dim);
    let scale = 1.0 / (dim as f32).sqrt();
    host::with2(q, sinks, |q, sinks| {
        host::with2(keys, values, |keys, values| {
            let mut out = vec![0f32; tq * width];
            out.par_chunks_mut(dim)
                .zip(q.par_chunks(dim))
                .enumerate()
                .for_each(|(at, (out, q))| {
                    let (i, head) = (at / heads.q, at % heads.q);
                    let position = tk - tq + i;
                    let key = |j: usize| j * kv_width + head / group * dim;
                    let visible = first_key(position, window)..position + 1;
                    let mut scores: Vec<f32> = visible
                        .clone()
                        .map(|j| dot(q, &keys[key(j)..key(j) + dim]) * scale)
                        .collect();
                    let top = max(&scores, sinks[head]);
                    let sum = (sinks[head] - top).exp() + exp_in_place(&mut scores, top);
                    for (p, j) in scores.iter().zip(visible) {
                        axpy(out, p / sum, &values[key(j)..key(j) + dim]);
                    }
                });
            Ok(host::f32s(out, (tq, width)))
        })
    })
}
