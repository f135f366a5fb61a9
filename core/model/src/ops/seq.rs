//! The layout of sequences in a batch: one after another, without padding.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

/// Where a token stands in its step: what its random numbers follow from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenKey {
    /// The place of its example among those of the step.
    pub example: u32,
    /// Its place in the example.
    pub place: u32,
}

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
    /// The first token of each sequence.
    firsts: Vec<TokenKey>,
}

impl SeqLayout {
    /// Lays out sequences of these lengths, each of which is an example.
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
            firsts: (0..lengths.len() as u32)
                .map(|example| TokenKey { example, place: 0 })
                .collect(),
        })
    }

    /// The same sequences, of which these are the first tokens.
    ///
    /// # Errors
    /// There are more or fewer sequences.
    pub fn beginning_at(mut self, firsts: Vec<TokenKey>) -> Result<Self> {
        ensure!(
            firsts.len() == self.firsts.len(),
            "{} sequences have {} first tokens",
            self.firsts.len(),
            firsts.len()
        );
        self.firsts = firsts;
        Ok(self)
    }

    /// The key of each token.
    pub fn keys(&self) -> impl Iterator<Item = TokenKey> + '_ {
        let of_sequence = |(first, (start, end)): (&TokenKey, (usize, usize))| {
            let TokenKey { example, place } = *first;
            (place..place + (end - start) as u32).map(move |place| TokenKey { example, place })
        };
        self.firsts.iter().zip(self.ranges()).flat_map(of_sequence)
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
