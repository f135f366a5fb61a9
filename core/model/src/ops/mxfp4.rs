//! MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 values of 4 bits (E2M1) with a shared power
//! of two (E8M0), as gpt-oss stores its expert matrices.
//!
//! `blocks[e, o, g, j]` holds inputs `32 g + 2 j` (low nibble) and `32 g + 2 j + 1` (high nibble) of
//! output row `o`; a value is `E2M1[nibble] * 2^(scale - 127)`.

use super::host;
use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};
use rayon::prelude::*;

/// The values of the 16 codes.
pub const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

/// Computes `2^(scale - 127)`, exactly even for the smallest.
fn power(scale: u8) -> f32 {
    match scale {
        0 => f32::from_bits(1 << 22),
        scale => f32::from_bits(u32::from(scale) << 23),
    }
}

/// Unpacks blocks `[E, O, G, 16]` and scales `[E, O, G]` to `[E, O, 32 G]`, bf16 on CUDA, f32 on the CPU.
pub fn dequantize(blocks: &Tensor, scales: &Tensor) -> Result<Tensor> {
    let (e, o, g, b) = blocks.dims4()?;
    ensure!(
        b == 16 && scales.dims() == [e, o, g],
        "mxfp4: blocks {:?} and scales {:?} do not fit",
        blocks.dims(),
        scales.dims()
    );
    let _span = profile::span(OpGroup::Dequantise);
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = blocks.device() {
        return super::cuda::mxfp4::dequantize(blocks, scales, cuda);
    }
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
fn code(x: f32) -> u8 {
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

/// Packs `w` `[E, O, I]` f32 on the CPU to blocks `[E, O, I / 32, 16]` and scales `[E, O, I / 32]`, u8.
pub fn quantize(w: &Tensor) -> Result<(Tensor, Tensor)> {
    let (e, o, i) = w.dims3()?;
    let w = w.to_dtype(DType::F32)?;
    host::with(&w, |w: &[f32]| {
        let (blocks, scales) = encode(w)?;
        let device = &candle_core::Device::Cpu;
        Ok((
            Tensor::from_vec(blocks, (e, o, i / 32, 16), device)?,
            Tensor::from_vec(scales, (e, o, i / 32), device)?,
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{random, values};
    use candle_core::Device;

    #[test]
    fn every_byte_under_nine_scales_as_transformers_reads_it() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/goldens/tiny/mxfp4_unit.safetensors"
        );
        let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let expected = golden["dequant_bf16"].transpose(1, 2).unwrap();
        let expected = expected.to_dtype(DType::F32).unwrap().contiguous().unwrap();
        let found = dequantize(&golden["blocks"], &golden["scales"]).unwrap();
        assert_eq!(values(&found), values(&expected));
    }

    #[test]
    fn exact_values_come_back() {
        let scales: Vec<u8> = (0..40).map(|i| 100 + i).collect();
        let blocks: Vec<u8> = (0..640).map(|i| (i * 37 % 256) as u8).collect();
        let decoded = decode(&blocks, &scales);
        let (again, found) = encode(&decoded).unwrap();
        assert_eq!(decode(&again, &found), decoded);
    }

    #[test]
    fn rounding_is_to_the_nearest_and_small_errors_stay_small() {
        for (x, expected) in [
            (0.25, 0.0),
            (0.26, 0.5),
            (0.75, 1.0),
            (2.5, 2.0),
            (3.5, 4.0),
            (5.0, 4.0),
            (5.1, 6.0),
            (9.0, 6.0),
        ] {
            assert_eq!(E2M1[usize::from(code(x))], expected, "{x}");
            assert_eq!(E2M1[usize::from(code(-x))], -expected, "-{x}");
        }
        let w = random(3, &[2, 4, 64]);
        let (blocks, scales) = quantize(&w).unwrap();
        let back = values(&dequantize(&blocks, &scales).unwrap());
        let (error, norm) = values(&w)
            .iter()
            .zip(back)
            .fold((0.0, 0.0), |(e, n), (a, b)| {
                (e + (a - b) * (a - b), n + a * a)
            });
        assert!(error / norm < 0.02, "{}", error / norm);
        assert!(encode(&[f32::NAN; 32]).is_err() && encode(&[0.0; 31]).is_err());
    }
}
