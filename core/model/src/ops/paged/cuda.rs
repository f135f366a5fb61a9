//! Attention over pages on a card: each sequence's keys and values are gathered, and attended to as a cache of their own.

use super::{HostLayout, PagedLayout};
use crate::ops::{Heads, attention};
use anyhow::Result;
use candle_core::{CudaDevice, Device, Tensor};

/// See [`super::write`].
pub fn write(
    qkv: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    layout: &PagedLayout,
    heads: Heads,
    _cuda: &CudaDevice,
) -> Result<()> {
    let (q, kv) = (heads.q * heads.dim, heads.kv * heads.dim);
    for (pool, from) in [(keys, q), (values, q + kv)] {
        let rows = qkv.narrow(1, from, kv)?.contiguous()?;
        let mut at = 0;
        // Rows that follow each other in the pool go together.
        for run in layout.host().slots.chunk_by(|a, b| a + 1 == *b) {
            let part = rows.narrow(0, at, run.len())?;
            pool.slice_set(&part, 0, run[0] as usize)?;
            at += run.len();
        }
    }
    Ok(())
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
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let host = layout.host();
    let queries = qkv.narrow(1, 0, heads.q * heads.dim)?.contiguous()?;
    let mut outputs = Vec::with_capacity(layout.sequences());
    for (sequence, rows) in host.sequences() {
        let seen = visible(host, sequence, rows.len(), window);
        let seen = Tensor::new(seen.as_slice(), &Device::Cuda(cuda.clone()))?;
        let q = queries.narrow(0, rows.start, rows.len())?;
        let [k, v] = [keys.index_select(&seen, 0)?, values.index_select(&seen, 0)?];
        outputs.push(attention::cached(&q, &k, &v, Some(sinks), heads, window)?);
    }
    Ok(Tensor::cat(&outputs, 0)?)
}

/// The rows of the pools that a query of a sequence sees.
fn visible(host: &HostLayout, sequence: usize, new: usize, window: Option<usize>) -> Vec<u32> {
    let length = host.lengths[sequence] as usize;
    let first = window.map_or(0, |window| (length - new + 1).saturating_sub(window));
    let rows = (first..length).map(|position| host.row(sequence, position) as u32);
    rows.collect()
}
