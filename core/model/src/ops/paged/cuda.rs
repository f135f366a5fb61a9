//! Attention over pages on a card. Sequences with one new token go through a kernel that reads pages; those with several, through
//! the one of training, over their keys and values side by side.

use super::{HostLayout, PagedLayout};
use crate::ops::Heads;
use crate::ops::attention::cuda::{every_card, for_card, parts, scale};
use crate::ops::cuda::{empty, input, output};
use crate::ops::rope::RopeTable;
use anyhow::{Result, ensure};
use apus_kernels::{
    In, Out, PAGED_ROWS, attention_forward, attention_tile, paged_attention, paged_gather,
    paged_splits, paged_write,
};
use candle_core::{CudaDevice, DType, Device, Tensor};
use half::bf16;
use std::ops::Range;

/// Keys that the kernel of training takes at a time; sequences are gathered from a multiple on, so that sums are taken in the same
/// order whatever has left the window.
const KEYS: usize = 64;

/// See [`super::rotate_and_write`].
pub fn rotate_and_write(
    qkv: &Tensor,
    table: &RopeTable,
    keys: &Tensor,
    values: &Tensor,
    layout: &PagedLayout,
    heads: Heads,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let qkv = qkv.contiguous()?;
    let rotated = empty(qkv.dims(), DType::BF16, cuda)?;
    let places = [&layout.positions, &layout.slots];
    rotate_and_write_into(&rotated, &qkv, table, [keys, values], places, heads, cuda)?;
    Ok(rotated)
}

/// [`super::rotate_and_write`] to a tensor that is there, which may be `qkv` itself, with `[positions, slots]`; a token whose slot is
/// `u32::MAX` is only rotated. That positions and slots are in their ranges is the caller's to know.
pub fn rotate_and_write_into(
    rotated: &Tensor,
    qkv: &Tensor,
    table: &RopeTable,
    [keys, values]: [&Tensor; 2],
    [positions, slots]: [&Tensor; 2],
    heads: Heads,
    cuda: &CudaDevice,
) -> Result<()> {
    let (tokens, width) = qkv.dims2()?;
    ensure!(
        width == heads.width()
            && rotated.dims() == qkv.dims()
            && positions.dims() == [tokens]
            && slots.dims() == [tokens],
        "rotating {:?} to {:?} with {:?} positions and {:?} slots does not fit {heads:?}",
        qkv.dims(),
        rotated.dims(),
        positions.dims(),
        slots.dims()
    );
    paged_write {
        y: output(rotated)?,
        keys: output(keys)?,
        values: output(values)?,
        x: input(qkv)?,
        cos: input(&table.cos)?,
        sin: input(&table.sin)?,
        positions: input(positions)?,
        slots: input(slots)?,
        tokens,
        q_heads: heads.q,
        kv_heads: heads.kv,
        dim: heads.dim,
    }
    .launch(&cuda.cuda_stream())
}

/// What [`decode`] needs room for, which serves steps of at most so many sequences and positions, one after another.
#[derive(Debug)]
pub struct DecodeBuffers {
    partial: Tensor,
    weights: Tensor,
    /// Counts blocks; 0 between launches.
    done: Tensor,
    splits: usize,
    sequences: usize,
}

impl DecodeBuffers {
    /// Room for layers with these heads and this window.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        sequences: usize,
        positions: usize,
        heads: Heads,
        window: Option<usize>,
        cuda: &CudaDevice,
    ) -> Result<Self> {
        let splits = paged_splits(positions, window);
        let room = |last: usize| empty((sequences, heads.q, splits, last), DType::F32, cuda);
        let device = Device::Cuda(cuda.clone());
        Ok(Self {
            partial: room(heads.dim)?,
            weights: room(2)?,
            done: Tensor::zeros((sequences, key_blocks(heads)), DType::U32, &device)?,
            splits,
            sequences,
        })
    }
}

/// The blocks that the key heads of a sequence take.
fn key_blocks(heads: Heads) -> usize {
    heads.kv * (heads.q / heads.kv).div_ceil(PAGED_ROWS)
}

/// Blocks that are enough to keep a card busy.
const BUSY: usize = 1056;

/// Sequences with one new token each.
#[derive(Debug, Clone, Copy)]
pub struct DecodeStep<'a> {
    /// Their rotated tokens `[S, (Q + 2 KV) D]`, of which the queries are read.
    pub qkv: &'a Tensor,
    /// The pools of keys.
    pub keys: &'a Tensor,
    /// The pools of values.
    pub values: &'a Tensor,
    /// A logit for each query head, `[Q]`; minus infinity is none.
    pub sinks: &'a Tensor,
    /// The pages of each sequence, `[S, P]`.
    pub pages: &'a Tensor,
    /// The keys of each sequence, `[S]`; 0 leaves out a row, whose output is 0.
    pub lengths: &'a Tensor,
}

/// Attends with one query a sequence to `out` `[S, Q D]`. It allocates nothing, and lengths and pages are read on the card, so that it
/// can be captured in a graph; that lengths are at most those of the buffers is the caller's to know.
///
/// # Errors
/// Shapes do not fit.
pub fn decode(
    out: &Tensor,
    step: DecodeStep,
    heads: Heads,
    window: Option<usize>,
    buffers: &DecodeBuffers,
    cuda: &CudaDevice,
) -> Result<()> {
    let (sequences, pages) = step.pages.dims2()?;
    ensure!(
        step.qkv.dims() == [sequences, heads.width()]
            && out.dims() == [sequences, heads.q * heads.dim]
            && step.lengths.dims() == [sequences]
            && sequences <= buffers.sequences,
        "decoding {sequences} sequences: tokens {:?}, output {:?}, lengths {:?} and buffers for {} do not fit {heads:?}",
        step.qkv.dims(),
        out.dims(),
        step.lengths.dims(),
        buffers.sequences
    );
    let part = Part {
        q: input(step.qkv)?,
        out: output(out)?,
        table: input(step.pages)?,
        lengths: input(step.lengths)?,
        pages,
        sequences,
    };
    part.decode(
        step.keys,
        step.values,
        step.sinks,
        heads,
        window,
        buffers,
        cuda,
    )
}

/// Neighbouring sequences of a step.
struct Part<'a> {
    q: In<'a, bf16>,
    out: Out<'a, bf16>,
    table: In<'a, u32>,
    lengths: In<'a, u32>,
    pages: usize,
    sequences: usize,
}

impl Part<'_> {
    #[allow(clippy::too_many_arguments)]
    fn decode(
        &self,
        keys: &Tensor,
        values: &Tensor,
        sinks: &Tensor,
        heads: Heads,
        window: Option<usize>,
        buffers: &DecodeBuffers,
        cuda: &CudaDevice,
    ) -> Result<()> {
        let blocks = (key_blocks(heads) * self.sequences).max(1);
        let most = buffers.splits;
        paged_attention {
            out: self.out,
            partial: output(&buffers.partial)?,
            weights: output(&buffers.weights)?,
            done: output(&buffers.done)?,
            q: self.q,
            keys: input(keys)?,
            values: input(values)?,
            sinks: input(sinks)?,
            table: self.table,
            lengths: self.lengths,
            pages: self.pages,
            q_stride: heads.width(),
            q_heads: heads.q,
            kv_heads: heads.kv,
            window: window.unwrap_or(0),
            most_splits: most,
            scale: scale(heads),
            version: every_card(heads)?,
            sequences: self.sequences,
            takers: most.min(BUSY.div_ceil(blocks).max(8)),
        }
        .launch(&cuda.cuda_stream())
    }
}

/// See [`super::attend`].
#[allow(clippy::too_many_arguments)]
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
    let (host, qkv) = (layout.host(), qkv.contiguous()?);
    let (width, row) = (heads.width(), heads.q * heads.dim);
    let out = empty((layout.tokens(), row), DType::BF16, cuda)?;
    let many = |sequence: usize| host.count(sequence) > 1;
    let all: Vec<usize> = (0..layout.sequences()).collect();
    for run in all.chunk_by(|&a, &b| many(a) == many(b)) {
        let sequences = run[0]..run[0] + run.len();
        if many(run[0]) {
            prefill(
                &out,
                &qkv,
                [keys, values],
                layout,
                sequences,
                sinks,
                heads,
                window,
                cuda,
            )?;
            continue;
        }
        let first = host.starts[run[0]] as usize;
        let longest = host.lengths[sequences].iter().max();
        let positions = longest.map_or(0, |&longest| longest as usize);
        let buffers = DecodeBuffers::new(run.len(), positions, heads, window, cuda)?;
        let part = Part {
            q: input::<bf16>(&qkv)?.offset(first * width),
            out: output::<bf16>(&out)?.offset(first * row),
            table: input::<u32>(&layout.pages)?.offset(run[0] * host.width()),
            lengths: input::<u32>(&layout.lengths)?.offset(run[0]),
            pages: host.width(),
            sequences: run.len(),
        };
        part.decode(keys, values, sinks, heads, window, &buffers, cuda)?;
    }
    Ok(out)
}

/// Neighbouring sequences with several new tokens each. Where these are all that there is of them, keys and values are read from the
/// tokens themselves.
#[allow(clippy::too_many_arguments)]
fn prefill(
    out: &Tensor,
    qkv: &Tensor,
    pools: [&Tensor; 2],
    layout: &PagedLayout,
    sequences: Range<usize>,
    sinks: &Tensor,
    heads: Heads,
    window: Option<usize>,
    cuda: &CudaDevice,
) -> Result<()> {
    let (host, n) = (layout.host(), sequences.len());
    let counts: Vec<usize> = sequences.clone().map(|s| host.count(s)).collect();
    let whole = sequences
        .clone()
        .zip(&counts)
        .all(|(s, &count)| host.lengths[s] as usize == count);
    let gathered = match whole {
        true => None,
        false => Some(Gathered::new(
            pools,
            layout,
            sequences.clone(),
            window,
            heads,
            cuda,
        )?),
    };
    let q: In<bf16> = input(qkv)?;
    let cu_q = input::<u32>(&layout.starts)?.offset(sequences.start);
    let [k, v] = parts(heads);
    let (k, v, cu_k, kv_stride, total_k) = match &gathered {
        None => (
            q.offset(k),
            q.offset(v),
            cu_q,
            heads.width(),
            layout.tokens(),
        ),
        Some(g) => (
            input(&g.keys)?,
            input(&g.values)?,
            input(&g.offsets)?,
            heads.kv * heads.dim,
            g.keys.dim(0)?,
        ),
    };
    let tile = attention_tile(heads.dim);
    attention_forward {
        out: output(out)?,
        lse: None,
        q,
        k,
        v,
        sinks: input(sinks)?,
        cu_q: Some(cu_q),
        cu_k: Some(cu_k),
        n,
        total_q: layout.tokens(),
        total_k,
        q_stride: heads.width(),
        kv_stride,
        out_stride: heads.q * heads.dim,
        q_heads: heads.q,
        kv_heads: heads.kv,
        window: window.unwrap_or(0),
        scale: scale(heads),
        version: for_card(heads, cuda)?,
        tiles: counts.iter().map(|count| count.div_ceil(tile)).sum(),
    }
    .launch(&cuda.cuda_stream())
}

/// The keys and values that sequences see, side by side, `[n, KV D]`.
struct Gathered {
    keys: Tensor,
    values: Tensor,
    /// The first row of each sequence, and the number of all.
    offsets: Tensor,
}

impl Gathered {
    fn new(
        [keys, values]: [&Tensor; 2],
        layout: &PagedLayout,
        sequences: Range<usize>,
        window: Option<usize>,
        heads: Heads,
        cuda: &CudaDevice,
    ) -> Result<Self> {
        let (host, n, width) = (layout.host(), sequences.len(), heads.kv * heads.dim);
        let firsts: Vec<u32> = sequences
            .clone()
            .map(|s| first_gathered(host, s, window) as u32)
            .collect();
        let mut offsets = vec![0u32];
        for (first, length) in firsts.iter().zip(&host.lengths[sequences.clone()]) {
            offsets.push(offsets.last().map_or(0, |last| last + length - first));
        }
        let rows = offsets.last().map_or(0, |&rows| rows as usize);
        let device = Device::Cuda(cuda.clone());
        let [firsts, offsets] =
            [firsts, offsets].map(|values| Tensor::new(values.as_slice(), &device));
        let (firsts, offsets) = (firsts?, offsets?);
        let gathered = Self {
            keys: empty((rows, width), DType::BF16, cuda)?,
            values: empty((rows, width), DType::BF16, cuda)?,
            offsets,
        };
        paged_gather {
            keys_out: output(&gathered.keys)?,
            values_out: output(&gathered.values)?,
            keys: input(keys)?,
            values: input(values)?,
            table: input::<u32>(&layout.pages)?.offset(sequences.start * host.width()),
            cu: input(&gathered.offsets)?,
            firsts: input(&firsts)?,
            n,
            rows,
            pages: host.width(),
            width,
        }
        .launch(&cuda.cuda_stream())?;
        Ok(gathered)
    }
}

/// The first position of a sequence that is gathered.
fn first_gathered(host: &HostLayout, sequence: usize, window: Option<usize>) -> usize {
    let first_query = host.lengths[sequence] as usize - host.count(sequence);
    let seen = window.map_or(0, |window| (first_query + 1).saturating_sub(window));
    seen / KEYS * KEYS
}
