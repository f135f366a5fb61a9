//! Where the tokens of a step stand in their sequences, and their keys in the pools.

use super::PAGE;
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// The layout of a step, on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostLayout {
    /// The position of each token in its sequence, `[T]`.
    pub positions: Vec<u32>,
    /// The row of the pools to which the key and the value of each token go, `[T]`.
    pub slots: Vec<u32>,
    /// The first token of each sequence, and the number of all, `[S + 1]`.
    pub starts: Vec<u32>,
    /// The number of keys of each sequence after this step, counted from position 0, `[S]`.
    pub lengths: Vec<u32>,
    /// The pages of each sequence, `[S, P]`: entry `i` is the page of the positions from `i * PAGE`. Entries of pages that no query
    /// sees any more, and those behind the last, may be any page.
    pub pages: Vec<u32>,
}

impl HostLayout {
    /// A layout without sequences.
    pub fn new() -> Self {
        Self {
            starts: vec![0],
            ..Self::default()
        }
    }

    /// New tokens at these positions of one sequence, which has the first pages of the pools in their order.
    pub fn alone(positions: Range<usize>) -> Self {
        let pages = positions.end.div_ceil(PAGE) as u32;
        let positions: Vec<u32> = positions.map(|position| position as u32).collect();
        Self {
            slots: positions.clone(),
            starts: vec![0, positions.len() as u32],
            lengths: vec![positions.last().map_or(0, |last| last + 1)],
            pages: (0..pages).collect(),
            positions,
        }
    }

    /// The number of new tokens of a sequence.
    pub fn count(&self, sequence: usize) -> usize {
        (self.starts[sequence + 1] - self.starts[sequence]) as usize
    }

    /// The number of entries in the table of each sequence.
    pub fn width(&self) -> usize {
        self.pages.len() / self.lengths.len().max(1)
    }

    /// The table of a sequence.
    pub fn table(&self, sequence: usize) -> &[u32] {
        let width = self.width();
        &self.pages[sequence * width..][..width]
    }

    /// The row of the pools in which the key of a position of a sequence is.
    pub fn row(&self, sequence: usize, position: usize) -> usize {
        self.table(sequence)[position / PAGE] as usize * PAGE + position % PAGE
    }

    /// One more than the last row of the pools that it names.
    fn rows(&self) -> usize {
        let pages = self.pages.iter().max().map_or(0, |page| *page as usize + 1);
        let slots = self.slots.iter().max().map_or(0, |slot| *slot as usize + 1);
        slots.max(pages * PAGE)
    }

    /// The tokens of each sequence.
    pub fn sequences(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        let pairs = self.starts.windows(2).enumerate();
        pairs.map(|(sequence, pair)| (sequence, pair[0] as usize..pair[1] as usize))
    }

    fn check(&self) -> Result<()> {
        let (tokens, sequences) = (self.positions.len(), self.lengths.len());
        let ends = self.starts.first() == Some(&0)
            && self.starts.is_sorted()
            && self.starts.last().map(|&end| end as usize) == Some(tokens)
            && self.starts.len() == sequences + 1;
        ensure!(
            ends && self.slots.len() == tokens && self.pages.len() == self.width() * sequences,
            "the layout of a step: {tokens} positions, {} slots, starts {:?}, {sequences} lengths and {} pages",
            self.slots.len(),
            self.starts,
            self.pages.len()
        );
        for (sequence, rows) in self.sequences() {
            let (length, count) = (self.lengths[sequence] as usize, rows.len());
            let first = length.checked_sub(count);
            let positions = self.positions[rows]
                .iter()
                .map(|&position| position as usize);
            ensure!(
                count > 0
                    && length <= self.width() * PAGE
                    && first.is_some_and(|first| positions.eq(first..length)),
                "the layout of a step: sequence {sequence} has {count} new tokens at other positions than the last of {length}"
            );
        }
        Ok(())
    }
}

/// The layout of a step on a device, with what the host knows of it.
#[derive(Debug, Clone)]
pub struct PagedLayout {
    /// See [`HostLayout::positions`], `[T]` u32.
    pub positions: Tensor,
    /// See [`HostLayout::slots`], `[T]` u32.
    pub slots: Tensor,
    /// See [`HostLayout::starts`], `[S + 1]` u32.
    pub starts: Tensor,
    /// See [`HostLayout::lengths`], `[S]` u32.
    pub lengths: Tensor,
    /// See [`HostLayout::pages`], `[S, P]` u32.
    pub pages: Tensor,
    host: Arc<HostLayout>,
    rows: usize,
}

impl PagedLayout {
    /// Puts a layout on a device.
    ///
    /// # Errors
    /// Its parts do not fit together.
    pub fn new(host: HostLayout, device: &Device) -> Result<Self> {
        host.check()?;
        let on_device = |values: &[u32]| Tensor::new(values, device);
        let shape = (host.lengths.len(), host.width());
        Ok(Self {
            positions: on_device(&host.positions)?,
            slots: on_device(&host.slots)?,
            starts: on_device(&host.starts)?,
            lengths: on_device(&host.lengths)?,
            pages: on_device(&host.pages)?.reshape(shape)?,
            rows: host.rows(),
            host: Arc::new(host),
        })
    }

    /// The same on the host.
    pub fn host(&self) -> &HostLayout {
        &self.host
    }

    /// The number of rows that the pools have to have.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.host.positions.len()
    }

    /// The number of sequences.
    pub fn sequences(&self) -> usize {
        self.host.lengths.len()
    }
}
