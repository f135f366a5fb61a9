//! The codec, block by block.

use super::E2M1;
use crate::ops::host;
use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

/// Computes `2^(scale - 127)`, exactly even for the smallest.
fn power(scale: u8) -> f32 {
    match scale {
        0 => f32::from_bits(1 << 22),
        scale => f32::from_bits(u32::from(scale) << 23),
    }
}

/// Unpacks all experts to f32.
pub fn dequantize(blocks: &Tensor, scales: &Tensor) -> Result<Tensor> {
    let (e, o, g, _) = blocks.dims4()?;
    host::with(blocks, |blocks: &[u8]| {
        host::with(scales, |scales: &[u8]| {
            Ok(host::f32s(decode(blocks, scales), (e, o, 32 * g)))
        })
    })
}

/// Unpacks the values of bytes: 16 of `blocks` for each of `scales`.
pub fn decode(blocks: &[u8], scales: &[u8]) -> Vec<f32> {
    let mut out = vec![0f32; scales.len() * 32];
    let packed = blocks.par_chunks(16 * 64).zip(scales.par_chunks(64));
    out.par_chunks_mut(32 * 64)
        .zip(packed)
        .for_each(|(out, (blocks, scales))| {
            for ((out, block), &scale) in out.chunks_mut(32).zip(blocks.chunks(16)).zip(scales) {
                let power = power(scale);
                for (pair, &byte) in out.chunks_exact_mut(2).zip(block) {
                    pair[0] = E2M1[usize::from(byte & 15)] * power;
                    pair[1] = E2M1[usize::from(byte >> 4)] * power;
                }
            }
        });
    out
}

/// Packs f32 values, 32 to a block, to bytes (16 for each block) and scales (one for each block).
///
/// The scale is the one of four around `floor(log2(max)) - 2` with the least squared error, so that
/// values which are MXFP4 already come back exactly; codes are rounded to the nearest, ties to even.
///
/// # Errors
/// The number of values is no multiple of 32, or a value is not finite.
pub fn encode(values: &[f32]) -> Result<(Vec<u8>, Vec<u8>)> {
    ensure!(
        values.len().is_multiple_of(32),
        "mxfp4: {} values are no whole blocks of 32",
        values.len()
    );
    ensure!(
        values.iter().all(|v| v.is_finite()),
        "mxfp4: a value is not finite"
    );
    let count = values.len() / 32;
    let (mut blocks, mut scales) = (vec![0u8; count * 16], vec![0u8; count]);
    let packed = blocks.par_chunks_mut(16).zip(scales.par_iter_mut());
    packed
        .zip(values.par_chunks(32))
        .for_each(|((block, scale), values)| {
            let max = values.iter().fold(0f32, |m, v| m.max(v.abs()));
            let top = if max > 0.0 {
                max.log2().floor() as i32 - 2 + 127
            } else {
                127
            };
            let error = |scale: u8| -> f64 {
                let power = power(scale);
                values
                    .iter()
                    .map(|&v| f64::from(v - E2M1[usize::from(code(v / power))] * power).powi(2))
                    .sum()
            };
            let candidates = (-2..=1).map(|d| (top + d).clamp(0, 254) as u8);
            *scale = candidates
                .map(|s| (error(s), s))
                .min_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)))
                .map_or(127, |(_, s)| s);
            let power = power(*scale);
            for (byte, pair) in block.iter_mut().zip(values.chunks_exact(2)) {
                *byte = code(pair[0] / power) | code(pair[1] / power) << 4;
            }
        });
    Ok((blocks, scales))
}

/// The nearest code of a scaled value, ties to the even one.
pub fn code(x: f32) -> u8 {
    // Midpoints between neighbouring magnitudes; a tie goes to the even code.
    const MIDDLES: [f32; 7] = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0];
    let magnitude = x.abs();
    let mut code = 0u8;
    for (i, &middle) in MIDDLES.iter().enumerate() {
        if magnitude > middle || (magnitude == middle && i % 2 == 1) {
            code = i as u8 + 1;
        }
    }
    if x.is_sign_negative() { code | 8 } else { code }
}
