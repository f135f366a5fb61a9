//! Where sequences lie in a batch: one after another, with no padding.

use anyhow::Result;
use candle_core::{Device, Tensor};

/// Offsets of the sequences of a batch and the position of each token in its own.
#[derive(Debug, Clone)]
pub struct SeqLayout {
    /// Start of each sequence, and the number of all tokens at the end: `[n + 1]`.
    pub offsets: Vec<u32>,
    /// The same on the device.
    pub offsets_dev: Tensor,
    /// Position of each token in its sequence, `[T]` u32 on the device.
    pub positions: Tensor,
    /// Length of the longest sequence.
    pub max_len: usize,
}

impl SeqLayout {
    /// Sequences of these lengths.
    ///
    /// # Errors
    /// Out of memory.
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

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.offsets.last().map_or(0, |&end| end as usize)
    }

    /// First token and end of each sequence.
    pub fn ranges(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.offsets
            .windows(2)
            .map(|pair| (pair[0] as usize, pair[1] as usize))
    }
}
