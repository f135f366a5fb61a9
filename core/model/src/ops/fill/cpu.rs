//! Blocks of four numbers, a few thousand to a task.

use crate::ops::philox;
use rayon::prelude::*;

/// The number of blocks of four numbers that a task makes.
const BLOCKS: usize = 1 << 14;

fn blocks<T: Copy + Default + Send>(count: usize, make: impl Fn(u64) -> [T; 4] + Sync) -> Vec<T> {
    let mut out = vec![T::default(); count];
    out.par_chunks_mut(4 * BLOCKS)
        .enumerate()
        .for_each(|(task, out)| {
            for (i, out) in out.chunks_mut(4).enumerate() {
                let values = make((task * BLOCKS + i) as u64);
                out.copy_from_slice(&values[..out.len()]);
            }
        });
    out
}

/// Makes normal values of this standard deviation.
pub fn normal_f32(count: usize, seed: u64, stream: u64, std: f32) -> Vec<f32> {
    blocks(count, |block| {
        let [a, b, c, d] = philox::block(seed, stream, block);
        let ([w, x], [y, z]) = (philox::normals(a, b), philox::normals(c, d));
        [w, x, y, z].map(|z| (f64::from(std) * z) as f32)
    })
}

/// Makes uniform values in `[low, high)`.
pub fn uniform_f32(count: usize, seed: u64, stream: u64, low: f32, high: f32) -> Vec<f32> {
    blocks(count, |block| {
        philox::block(seed, stream, block).map(|word| low + (high - low) * philox::unit(word))
    })
}

/// Makes random bytes in `low..low + span`, `span` up to 256, from the words of each block, low byte first.
pub fn random_bytes(count: usize, seed: u64, stream: u64, low: u8, span: u32) -> Vec<u8> {
    let words = blocks(count.div_ceil(4), |block| {
        philox::block(seed, stream, block)
    });
    let bytes = words.into_iter().flat_map(u32::to_le_bytes).take(count);
    bytes
        .map(|byte| low.wrapping_add(((u32::from(byte) * span) >> 8) as u8))
        .collect()
}
