//! Four columns of a token share a block of random words.

use super::{Draws, STREAM, scale, threshold};
use crate::ops::{TokenKey, host, philox};
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Drops elements by a seed and the keys of tokens.
pub fn apply(x: &Tensor, p: f32, draws: &Draws) -> Result<Tensor> {
    let (threshold, scale) = (threshold(p), scale(p));
    let width = x.dims2()?.1;
    let keys = draws.keys.to_vec2::<u32>()?;
    host::with(x, |values: &[f32]| {
        let mut out = values.to_vec();
        let rows = out.par_chunks_mut(width.max(1)).zip(&keys);
        rows.for_each(|(row, key)| {
            let token = TokenKey {
                example: key[0],
                place: key[1],
            };
            for (block, four) in row.chunks_mut(4).enumerate() {
                let words = philox::token_block(draws.seed, STREAM, token, block as u32);
                for (x, word) in four.iter_mut().zip(words) {
                    *x = if word < threshold { 0.0 } else { *x * scale };
                }
            }
        });
        Ok(host::f32s(out, x.dims()))
    })
}
