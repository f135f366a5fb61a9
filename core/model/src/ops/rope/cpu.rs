//! One task for each row.

use super::{Heads, RopeTable};
use crate::ops::host;
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Rotates queries and keys.
pub fn apply(
    qkv: &Tensor,
    table: &RopeTable,
    positions: &Tensor,
    heads: Heads,
    transpose: bool,
) -> Result<Tensor> {
    let (t, width) = qkv.dims2()?;
    let (limit, half) = table.cos.dims2()?;
    let sign = if transpose { -1.0 } else { 1.0 };
    host::with3(qkv, &table.cos, &table.sin, |qkv, cos, sin| {
        host::with(positions, |positions: &[u32]| {
            if let Some(&far) = positions.iter().find(|&&p| p as usize >= limit) {
                anyhow::bail!("position {far} is beyond the {limit} that were prepared");
            }
            let mut out = qkv.to_vec();
            out.par_chunks_mut(width)
                .zip(positions)
                .for_each(|(row, &position)| {
                    let at = position as usize * half..(position as usize + 1) * half;
                    let (cos, sin) = (&cos[at.clone()], &sin[at]);
                    let rotated = (heads.q + heads.kv) * heads.dim;
                    for head in row[..rotated].chunks_mut(heads.dim) {
                        let (first, second) = head.split_at_mut(half);
                        for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                            let (x, y, s) = (*a, *b, sign * s);
                            *a = x * c - y * s;
                            *b = y * c + x * s;
                        }
                    }
                });
            Ok(host::f32s(out, (t, width)))
        })
    })
}
