//! The attention of a step: queries and keys are rotated, keys and values go to their pages, and each row attends to its sequence.

use super::buffers::Buffers;
use super::inputs::{Inputs, KindInputs, Room};
use super::weights::LayerWeights;
use crate::nn::paged_cache::LayerPool;
use crate::ops::paged::{self, HostLayout, PagedLayout};
use crate::ops::rope::RopeTable;
use crate::ops::{Heads, copy};
use anyhow::Result;
use candle_core::{Device, Tensor};

/// What attention on a card needs room for, for each kind of layers.
pub struct Splits {
    #[cfg(feature = "cuda")]
    kinds: Vec<paged::DecodeBuffers>,
}

impl Splits {
    /// Room for steps up to this one, of layers with these windows.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    pub fn new(
        most: Room,
        heads: Heads,
        windows: &[Option<usize>],
        device: &Device,
    ) -> Result<Self> {
        #[cfg(feature = "cuda")]
        let kinds = match device {
            Device::Cuda(cuda) => {
                let positions = most.pages * paged::PAGE;
                let kinds = windows.iter().map(|window| {
                    paged::DecodeBuffers::new(most.rows, positions, heads, *window, cuda)
                });
                kinds.collect::<Result<_>>()?
            }
            _ => Vec::new(),
        };
        Ok(Self {
            #[cfg(feature = "cuda")]
            kinds,
        })
    }
}

/// Takes queries, keys and values of a step in `buffers.qkv` to `buffers.attended`.
pub fn attend(
    buffers: &Buffers,
    layer: &LayerWeights,
    inputs: &Inputs,
    pool: &LayerPool,
    rope: &RopeTable,
    splits: &Splits,
) -> Result<()> {
    let kind = &inputs.kinds[pool.kind];
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = buffers.qkv.device() {
        let Buffers { qkv, attended, .. } = buffers;
        let places = [&inputs.positions, &kind.slots];
        let pools = [&pool.keys, &pool.values];
        paged::rotate_and_write_into(qkv, qkv, rope, pools, places, layer.heads, cuda)?;
        let step = paged::DecodeStep {
            qkv,
            keys: &pool.keys,
            values: &pool.values,
            sinks: &layer.sinks,
            pages: &kind.pages,
            lengths: &kind.lengths,
        };
        let room = &splits.kinds[pool.kind];
        return paged::decode(attended, step, layer.heads, layer.window, room, cuda);
    }
    let _ = splits;
    by_rows(buffers, layer, (&inputs.positions, kind), pool, rope)
}

/// The same by the operations for any tokens; rows without keys are left out.
fn by_rows(
    buffers: &Buffers,
    layer: &LayerWeights,
    (positions, kind): (&Tensor, &KindInputs),
    pool: &LayerPool,
    rope: &RopeTable,
) -> Result<()> {
    let mut lengths: Vec<u32> = kind.lengths.to_vec1()?;
    lengths.retain(|&length| length > 0);
    let rows = lengths.len();
    let first = |tensor: &Tensor| tensor.narrow(0, 0, rows);
    let layout = HostLayout {
        positions: first(positions)?.to_vec1()?,
        slots: first(&kind.slots)?.to_vec1()?,
        starts: (0..=rows as u32).collect(),
        lengths,
        pages: first(&kind.pages)?.flatten_all()?.to_vec1()?,
    };
    let layout = PagedLayout::new(layout, positions.device())?;
    let LayerPool { keys, values, .. } = pool;
    let (heads, window) = (layer.heads, layer.window);
    let qkv = first(&buffers.qkv)?;
    let qkv = paged::rotate_and_write(&qkv, rope, keys, values, &layout, heads)?;
    let out = paged::attend(
        &qkv,
        keys,
        values,
        &layout,
        Some(&layer.sinks),
        heads,
        window,
    )?;
    copy::into(&first(&buffers.attended)?, &out)
}
