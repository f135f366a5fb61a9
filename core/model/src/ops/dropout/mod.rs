//! Dropout whose mask is a function of a seed, so that recomputation, the backward pass and all devices see the same
//! mask without storing it.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::Tensor;

/// Random words below this drop an element: `floor(p * 2^32)`.
pub(super) fn threshold(p: f32) -> u32 {
    (f64::from(p) * 4_294_967_296.0) as u32
}

/// The factor for elements that are kept.
pub(super) fn scale(p: f32) -> f32 {
    (1.0 / (1.0 - f64::from(p))) as f32
}

/// Zeroes each element with probability `p` and scales the rest by `1 / (1 - p)`. The gradient is the
/// same call on the gradient.
pub fn apply(x: &Tensor, p: f32, seed: u64) -> Result<Tensor> {
    ensure!(
        (0.0..1.0).contains(&p),
        "dropout probability {p} is not in 0..1"
    );
    if p == 0.0 {
        return Ok(x.clone());
    }
    let _span = profile::span(OpGroup::Lora);
    on_device!(x.device(), apply(x, p, seed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::values;
    use candle_core::{DType, Device};

    #[test]
    fn the_mask_is_a_rule() {
        let ones = Tensor::ones(16, DType::F32, &Device::Cpu).unwrap();
        let kept = values(&apply(&ones, 0.25, 1234).unwrap());
        let kept: Vec<u8> = kept.iter().map(|&x| u8::from(x != 0.0)).collect();
        assert_eq!(kept, [1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn keeps_the_mean_and_repeats() {
        let ones = Tensor::ones((300, 100), DType::F32, &Device::Cpu).unwrap();
        let x = values(&apply(&ones, 0.25, 9).unwrap());
        let kept = x.iter().filter(|&&x| x != 0.0).count() as f64 / x.len() as f64;
        assert!(
            (kept - 0.75).abs() < 0.01
                && x.iter().all(|&x| x == 0.0 || (x - 4.0 / 3.0).abs() < 1e-6)
        );
        assert_eq!(x, values(&apply(&ones, 0.25, 9).unwrap()));
        assert_ne!(x, values(&apply(&ones, 0.25, 10).unwrap()));
    }
}
