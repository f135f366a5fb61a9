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

/// Values that a thread packs or unpacks at a time.
const PART: usize = 32 * 64;

/// Unpacks the values of bytes: 16 of `blocks` for each of `scales`.
pub fn decode(blocks: &[u8], scales: &[u8]) -> Vec<f32> {
    let mut out = vec![0f32; scales.len() * 32];
    let packed = blocks
        .par_chunks(PART / 2)
        .zip(scales.par_chunks(PART / 32));
    out.par_chunks_mut(PART)
        .zip(packed)
        .for_each(|(out, (blocks, scales))| decode_into(out, blocks, scales));
    out
}

/// Unpacks to `out`, on this thread alone: 32 values and 16 of `blocks` for each of `scales`.
pub fn decode_into(out: &mut [f32], blocks: &[u8], scales: &[u8]) {
    let (values, blocks) = (out.as_chunks_mut::<32>().0, blocks.as_chunks::<16>().0);
    for ((values, block), &scale) in values.iter_mut().zip(blocks).zip(scales) {
        let power = power(scale);
        for (pair, &byte) in values.as_chunks_mut::<2>().0.iter_mut().zip(block) {
            pair[0] = E2M1[usize::from(byte & 15)] * power;
            pair[1] = E2M1[usize::from(byte >> 4)] * power;
        }
    }
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
    let count = values.len() / 32;
    let (mut blocks, mut scales) = (vec![0u8; count * 16], vec![0u8; count]);
    let packed = blocks
        .par_chunks_mut(PART / 2)
        .zip(scales.par_chunks_mut(PART / 32));
    packed
        .zip(values.par_chunks(PART))
        .try_for_each(|((blocks, scales), values)| encode_into(blocks, scales, values))?;
    Ok((blocks, scales))
}

/// Packs to `blocks` and `scales` as [`encode`] does, on this thread alone: 32 values for each of `scales`.
///
/// # Errors
/// A value is not finite.
pub fn encode_into(blocks: &mut [u8], scales: &mut [u8], values: &[f32]) -> Result<()> {
    let finite = values.iter().fold(true, |all, v| all & v.is_finite());
    ensure!(finite, "mxfp4: a value is not finite");
    let (blocks, values) = (blocks.as_chunks_mut::<16>().0, values.as_chunks::<32>().0);
    for ((block, scale), values) in blocks.iter_mut().zip(scales).zip(values) {
        let max = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        let top = if max > 0.0 {
            max.log2().floor() as i32 - 2 + 127
        } else {
            127
        };
        // From the greatest scale on, which is taken where two have the same error.
        let candidates = [1, 0, -1, -2].map(|d| (top + d).clamp(0, 254) as u8);
        let errors = errors(values, candidates.map(power));
        let mut best = 0;
        for (i, error) in errors.iter().enumerate() {
            if *error < errors[best] {
                best = i;
            }
        }
        *scale = candidates[best];
        let power = power(candidates[best]);
        for (byte, pair) in block.iter_mut().zip(values.as_chunks::<2>().0) {
            *byte = code(pair[0] / power) | code(pair[1] / power) << 4;
        }
    }
    Ok(())
}

/// The squared error of a block under each of four scales. Four sums at a time hide the latency of additions, and nothing branches or
/// looks a table up, so that the rest is done for several values at once.
fn errors(values: &[f32; 32], powers: [f32; 4]) -> [f64; 4] {
    let apart = powers.map(|power| {
        values.map(|value| {
            let m = value.abs() / power;
            let step = |passed: bool, height: f32| if passed { height } else { 0.0 };
            let small = step(m > 0.25, 0.5) + step(m >= 0.75, 0.5);
            let middle = step(m > 1.25, 0.5) + step(m >= 1.75, 0.5);
            let large = step(m > 2.5, 1.0) + step(m >= 3.5, 1.0) + step(m > 5.0, 2.0);
            value.abs() - (small + middle + large) * power
        })
    });
    let mut errors = [0.0; 4];
    for i in 0..32 {
        for (error, apart) in errors.iter_mut().zip(&apart) {
            *error += f64::from(apart[i]).powi(2);
        }
    }
    errors
}

/// The nearest code of a scaled value, ties to the even one.
pub fn code(x: f32) -> u8 {
    // Midpoints between neighbouring magnitudes; a tie goes to the even code.
    let m = x.abs();
    let above = [
        m > 0.25,
        m >= 0.75,
        m > 1.25,
        m >= 1.75,
        m > 2.5,
        m >= 3.5,
        m > 5.0,
    ];
    let code: u8 = above.map(u8::from).iter().sum();
    code | u8::from(x.is_sign_negative()) << 3
}
