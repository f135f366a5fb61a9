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
