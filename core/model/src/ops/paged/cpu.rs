//! Attention over pages on the CPU: one task for each query and head. A row does not depend on the others of its step.

use super::PagedLayout;
use crate::ops::attention::cpu::first_key;
use crate::ops::rope::{self, RopeTable};
use crate::ops::simd::{axpy, dot, exp_in_place, max};
use crate::ops::{Heads, host};
use anyhow::Result;
use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};
use rayon::prelude::*;

/// See [`super::rotate_and_write`].
pub fn rotate_and_write(
    qkv: &Tensor,
    table: &RopeTable,
    keys: &Tensor,
    values: &Tensor,
    layout: &PagedLayout,
    heads: Heads,
) -> Result<Tensor> {
    let qkv = rope::apply(qkv, table, &layout.positions, heads, false)?;
    let (q, kv) = (heads.q * heads.dim, heads.kv * heads.dim);
    for (pool, from) in [(keys, q), (values, q + kv)] {
        let slots = &layout.host().slots;
        pool.inplace_op2(&qkv, &WriteRows { slots, from })?;
    }
    Ok(qkv)
}

/// Writes a part of each row, from a column on, to the row of the pool that its slot names.
struct WriteRows<'a> {
    slots: &'a [u32],
    from: usize,
}

impl InplaceOp2 for WriteRows<'_> {
    fn name(&self) -> &'static str {
        "write-rows"
    }

    fn cpu_fwd(
        &self,
        pool: &mut CpuStorage,
        pool_l: &Layout,
        rows: &CpuStorage,
        rows_l: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(pool), CpuStorage::F32(rows)) = (pool, rows) else {
            candle_core::bail!("keys and values on the CPU are f32");
        };
        let ((_, width), (_, row)) = (pool_l.shape().dims2()?, rows_l.shape().dims2()?);
        let (pool, rows) = (
            &mut pool[pool_l.start_offset()..],
            &rows[rows_l.start_offset()..],
        );
        for (slot, row) in self.slots.iter().zip(rows.chunks(row)) {
            pool[*slot as usize * width..][..width].copy_from_slice(&row[self.from..][..width]);
        }
        Ok(())
    }
}

/// See [`super::attend`].
pub fn attend(
    qkv: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    layout: &PagedLayout,
    sinks: &Tensor,
    heads: Heads,
    window: Option<usize>,
) -> Result<Tensor> {
    let (host_layout, tokens) = (layout.host(), layout.tokens());
    let (group, dim, kv_width) = (heads.q / heads.kv, heads.dim, heads.kv * heads.dim);
    let width = heads.q * dim;
    let scale = 1.0 / (dim as f32).sqrt();
    let of_row: Vec<usize> = host_layout
        .sequences()
        .flat_map(|(sequence, rows)| rows.map(move |_| sequence))
        .collect();
    host::with2(qkv, sinks, |qkv, sinks| {
        host::with2(keys, values, |keys, values| {
            let mut out = vec![0f32; tokens * width];
            out.par_chunks_mut(dim).enumerate().for_each(|(at, out)| {
                let (row, head) = (at / heads.q, at % heads.q);
                let q = &qkv[row * heads.width() + head * dim..][..dim];
                let position = host_layout.positions[row] as usize;
                let visible = first_key(position, window)..position + 1;
                let key =
                    |j: usize| host_layout.row(of_row[row], j) * kv_width + head / group * dim;
                let mut scores: Vec<f32> = visible
                    .clone()
                    .map(|j| dot(q, &keys[key(j)..][..dim]) * scale)
                    .collect();
                let top = max(&scores, sinks[head]);
                let sum = (sinks[head] - top).exp() + exp_in_place(&mut scores, top);
                for (p, j) in scores.iter().zip(visible) {
                    axpy(out, p / sum, &values[key(j)..][..dim]);
                }
            });
            Ok(host::f32s(out, (tokens, width)))
        })
    })
}
