//! Four elements share a block of random words.

use super::{scale, threshold};
use crate::ops::{host, philox};
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// The stream of random numbers for masks, "drop" in ASCII.
const STREAM: u64 = 0x6472_6f70;

/// Drops elements by a seed.
pub fn apply(x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    let (threshold, scale) = (threshold(p), scale(p));
    host::with(x, |values: &[f32]| {
        let mut out = values.to_vec();
        out.par_chunks_mut(1 << 14)
            .enumerate()
            .for_each(|(task, out)| {
                for (i, out) in out.chunks_mut(4).enumerate() {
                    let words = philox::block(seed, STREAM, ((task << 12) + i) as u64);
                    for (x, word) in out.iter_mut().zip(words) {
                        *x = if word < threshold { 0.0 } else { *x * scale };
                    }
                }
            });
        Ok(host::f32s(out, x.dims()))
    })
}
