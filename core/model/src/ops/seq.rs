//! The layout of sequences in a batch: one after another, without padding.

use anyhow::Result;
use candle_core::{Device, Tensor};

/// The offsets of the sequences of a batch, and the position of each token in its sequence.
#[derive(Debug, Clone)]
pub struct SeqLayout {
    /// The start of each sequence, and at the end the number of all tokens: `[n + 1]`.
    pub offsets: Vec<u32>,
    /// The offsets on the device.
    pub offsets_dev: Tensor,
    /// The position of each token in its sequence, `[T]` u32 on the device.
    pub positions: Tensor,
    /// The length of the longest sequence.
    pub max_len: usize,
}

impl SeqLayout {
    /// Lays out sequences of these lengths.
    pub fn new(lengths: &[usize], device: &Device) -> Result<Self> {
        let mut offsets = vec![0u32];
        let mut positions = Vec::new();
        for &length in lengths {
            positions.extend(0..length as u32);
            offsets.push(positions.len() as u32);
        }
        Ok(Self {
            offsets_dev: Tensor::new(offsets.as_slice(), device)?,
            positions: Tensor::new(positions.as_slice(), device)?,
            max_len: lengths.iter().copied().max().unwrap_or(0),
            offsets,
        })
    }

    /// The number of tokens.
    pub fn tokens(&self) -> usize {
        self.offsets.last().map_or(0, |&end| end as usize)
    }

    /// The first token and the end of each sequence.
    pub fn ranges(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.offsets
            .windows(2)
            .map(|pair| (pair[0] as usize, pair[1] as usize))
    }
}
