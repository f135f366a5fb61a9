//! Partial sums of stretches of a fixed length, then their sum.

use crate::ops::host;
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Sum of squares in f64.
pub fn square_sum(tensors: &[Tensor]) -> Result<f64> {
    let mut sum = 0.0;
    for tensor in tensors {
        sum += host::with(tensor, |x: &[f32]| {
            let parts: Vec<f64> = x
                .par_chunks(1 << 14)
                .map(|x| x.iter().map(|&x| f64::from(x) * f64::from(x)).sum())
                .collect();
            Ok(parts.iter().sum::<f64>())
        })?;
    }
    Ok(sum)
}

/// Wrapping sum of scrambled bits of each tensor, as the kernel `bit_sum_f32` computes it.
pub fn bit_sums(tensors: &[Tensor]) -> Result<Vec<u64>> {
    const PART: usize = 1 << 14;
    let of_tensor = |tensor: &Tensor| {
        host::with(tensor, |x: &[f32]| {
            let parts = x.par_chunks(PART).enumerate().map(|(part, x)| {
                let places = (part * PART) as u64..;
                let scrambled = places.zip(x).map(|(at, x)| scrambled(at, x.to_bits()));
                scrambled.fold(0, u64::wrapping_add)
            });
            Ok(parts.reduce(|| 0, u64::wrapping_add))
        })
    };
    tensors.iter().map(of_tensor).collect()
}

/// The finaliser of MurmurHash3 on a number and its place.
fn scrambled(at: u64, bits: u32) -> u64 {
    let mut key = (at << 32) ^ u64::from(bits);
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        key = (key ^ (key >> 33)).wrapping_mul(factor);
    }
    key ^ (key >> 33)
}
