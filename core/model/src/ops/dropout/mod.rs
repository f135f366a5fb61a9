//! Dropout whose mask is a function of a seed and of where a token stands in its step, so that recomputation, the backward
//! pass, all devices, and any batch that the token is in see the same mask without storing it.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::SeqLayout;
use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};

/// The stream of random numbers for masks, "drop" in ASCII.
const STREAM: u32 = 0x6472_6f70;

/// Which random numbers a mask is drawn from.
#[derive(Debug, Clone)]
pub struct Draws {
    seed: u64,
    /// Example and place of each token, `[T, 2]` u32.
    keys: Tensor,
}

impl Draws {
    /// Those of a batch.
    pub fn new(seed: u64, seqs: &SeqLayout, device: &Device) -> Result<Self> {
        let keys: Vec<u32> = seqs
            .keys()
            .flat_map(|key| [key.example, key.place])
            .collect();
        let keys = Tensor::from_vec(keys, (seqs.tokens(), 2), device)?;
        Ok(Self { seed, keys })
    }

    /// Others for the same tokens: those of the module of this number.
    #[must_use]
    pub fn of(&self, number: u64) -> Self {
        Self {
            seed: self.seed.wrapping_add(number),
            keys: self.keys.clone(),
        }
    }
}

/// Random words below this drop an element: `floor(p * 2^32)`.
pub(super) fn threshold(p: f32) -> u32 {
    (f64::from(p) * 4_294_967_296.0) as u32
}

/// The factor for elements that are kept.
pub(super) fn scale(p: f32) -> f32 {
    (1.0 / (1.0 - f64::from(p))) as f32
}

/// Zeroes each element of `x` `[T, I]` with probability `p` and scales the rest by `1 / (1 - p)`. The gradient is the
/// same call on the gradient.
pub fn apply(x: &Tensor, p: f32, draws: &Draws) -> Result<Tensor> {
    ensure!(
        (0.0..1.0).contains(&p),
        "dropout probability {p} is not in 0..1"
    );
    if p == 0.0 {
        return Ok(x.clone());
    }
    let (rows, tokens) = (x.dims2()?.0, draws.keys.dims2()?.0);
    ensure!(
        rows == tokens,
        "dropout of {rows} rows by the keys of {tokens} tokens"
    );
    let _span = profile::span(OpGroup::Lora);
    on_device!(x.device(), apply(x, p, draws))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::TokenKey;
    use crate::ops::testing::values;
    use candle_core::DType;

    /// The mask of ones `[T, width]` in sequences of these lengths and first tokens.
    fn mask(sequences: &[(usize, u32, u32)], width: usize, seed: u64) -> Vec<Vec<f64>> {
        let lengths: Vec<usize> = sequences.iter().map(|(length, ..)| *length).collect();
        let firsts = sequences
            .iter()
            .map(|&(_, example, place)| TokenKey { example, place });
        let seqs = SeqLayout::new(&lengths, &Device::Cpu).unwrap();
        let seqs = seqs.beginning_at(firsts.collect()).unwrap();
        let ones = Tensor::ones((seqs.tokens(), width), DType::F32, &Device::Cpu).unwrap();
        let draws = Draws::new(seed, &seqs, &Device::Cpu).unwrap();
        let rows = values(&apply(&ones, 0.25, &draws).unwrap());
        rows.chunks(width).map(<[f64]>::to_vec).collect()
    }

    #[test]
    fn the_mask_is_a_rule() {
        let kept = |row: &[f64]| -> Vec<u8> { row.iter().map(|&x| u8::from(x != 0.0)).collect() };
        let rows = mask(&[(2, 3, 5)], 12, 1234);
        assert_eq!(kept(&rows[0]), RULE[0]);
        assert_eq!(kept(&rows[1]), RULE[1]);
    }

    /// From the NumPy version of the rule beside the kernels, `tests/random_check.py`.
    const RULE: [[u8; 12]; 2] = [
        [1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1],
    ];

    #[test]
    fn keeps_the_mean_and_repeats() {
        let x = mask(&[(300, 0, 0)], 100, 9).concat();
        let kept = x.iter().filter(|&&x| x != 0.0).count() as f64 / x.len() as f64;
        assert!(
            (kept - 0.75).abs() < 0.01
                && x.iter().all(|&x| x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-6)
        );
        assert_eq!(x, mask(&[(300, 0, 0)], 100, 9).concat());
        assert_ne!(x, mask(&[(300, 0, 0)], 100, 10).concat());
        assert_ne!(x, mask(&[(300, 1, 0)], 100, 9).concat());
    }

    /// A sequence has the same mask alone and among others, wherever it lies in the batch, whole or in parts.
    #[test]
    fn a_token_has_its_mask_in_any_batch() {
        let all = [(3, 7, 0), (8, 8, 4), (1, 9, 0), (5, 0, 1)];
        for width in 1..20 {
            let rows = mask(&all, width, width as u64);
            let mut start = 0;
            for one in all {
                let (length, example, place) = one;
                let among = &rows[start..start + length];
                start += length;
                assert_eq!(among, mask(&[one], width, width as u64));
                let cut = length / 2;
                let parts = [
                    (length - cut, example, place + cut as u32),
                    (cut, example, place),
                ];
                let parts = mask(&parts, width, width as u64);
                assert_eq!(among[cut..], parts[..length - cut]);
                assert_eq!(among[..cut], parts[length - cut..]);
            }
        }
    }
}
