//! MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 values of 4 bits (E2M1) with a shared power
//! of two (E8M0).
//!
//! `blocks[e, o, g, j]` holds inputs `32 g + 2 j` (low nibble) and `32 g + 2 j + 1` (high nibble) of
//! output row `o`; a value is `E2M1[nibble] * 2^(scale - 127)`.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::host;
use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

pub use cpu::{decode, decode_into, encode, encode_into};

/// The values of the 16 codes.
pub const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

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
    on_device!(blocks.device(), dequantize(blocks, scales))
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
    use super::cpu::code;
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

    /// The scale is the one of four with the least error, the greatest of those that have it, in the plain way of saying so.
    #[test]
    fn the_best_scale_is_taken() {
        let mut blocks: Vec<Vec<f32>> = (random(8, &[400, 32]).to_vec2::<f32>().unwrap())
            .iter()
            .enumerate()
            .map(|(i, block)| {
                let spread = 2f32.powi(i as i32 % 40 - 20);
                block.iter().map(|v| v * spread).collect()
            })
            .collect();
        blocks.push(vec![0.0; 32]);
        blocks.push(vec![-0.0; 32]);
        blocks.extend(
            [f32::MAX, f32::MIN_POSITIVE, 1e-45, 6.0, 5.0, 0.25].map(|v| {
                let signs = [v, -v, v / 3.0, 0.0];
                signs.repeat(8)
            }),
        );
        for block in &blocks {
            let (codes, scales) = encode(block).unwrap();
            let error = |scale: u8| -> f64 {
                let power = decode(&[2; 16], &[scale])[0];
                let apart = |&v: &f32| f64::from(v - E2M1[usize::from(code(v / power))] * power);
                block.iter().map(|v| apart(v).powi(2)).sum()
            };
            let max = block.iter().fold(0f32, |m, v| m.max(v.abs()));
            let top = if max > 0.0 {
                max.log2().floor() as i32 + 125
            } else {
                127
            };
            let candidates = (-2..=1).map(|d| (top + d).clamp(0, 254) as u8);
            let best = candidates.min_by(|a, b| error(*a).total_cmp(&error(*b)).then(b.cmp(a)));
            assert_eq!(Some(scales[0]), best, "{block:?}");
            let power = decode(&[2; 16], &scales)[0];
            for (pair, byte) in block.chunks(2).zip(codes) {
                let expected = code(pair[0] / power) | code(pair[1] / power) << 4;
                assert_eq!(byte, expected, "{block:?}");
            }
        }
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
