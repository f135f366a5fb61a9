//! Sums over whole tensors in a fixed order.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use anyhow::Result;
use candle_core::Tensor;

/// Sums the squares of all elements of f32 tensors of one device, in f64.
pub fn square_sum(tensors: &[Tensor]) -> Result<f64> {
    #[cfg(feature = "cuda")]
    if let Some(candle_core::Device::Cuda(cuda)) = tensors.first().map(Tensor::device) {
        return cuda::square_sum(tensors, cuda);
    }
    cpu::square_sum(tensors)
}

/// Whether all elements of f32 tensors of one device are finite. Squares of f32 do not overflow in f64, so their sum is
/// finite exactly if all of them are.
pub fn finite(tensors: &[Tensor]) -> Result<bool> {
    Ok(square_sum(tensors)?.is_finite())
}

/// A checksum of the bits of each of these f32 tensors of one device, the same on every device. Any number that differs makes
/// another one.
pub fn bit_sums(tensors: &[Tensor]) -> Result<Vec<u64>> {
    #[cfg(feature = "cuda")]
    if let Some(candle_core::Device::Cuda(cuda)) = tensors.first().map(Tensor::device) {
        return cuda::bit_sums(tensors, cuda);
    }
    cpu::bit_sums(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{dot, random};

    #[test]
    fn over_several_tensors() {
        let (a, b) = (random(1, &[300, 70]), random(2, &[5]));
        let expected = dot(&a, &a) + dot(&b, &b);
        let found = square_sum(&[a, b]).unwrap();
        assert!((found - expected).abs() < 1e-9 * expected);
    }

    #[test]
    fn a_checksum_is_of_bits_and_places() {
        let sum =
            |x: &[f32]| bit_sums(&[Tensor::new(x, &candle_core::Device::Cpu).unwrap()]).unwrap()[0];
        // By hand, in Python's whole numbers.
        assert_eq!(sum(&[1.0, -2.5, 0.0]), 0x3fbe_4bac_21b5_98ce);
        let different = [
            sum(&[1.0, 2.0]),
            sum(&[2.0, 1.0]),
            sum(&[1.0, f32::from_bits(2f32.to_bits() + 1)]),
            sum(&[-1.0, -2.0]),
            sum(&[1.0, 2.0, 0.0]),
            sum(&[1.0, 2.0, -0.0]),
        ];
        let set: std::collections::BTreeSet<u64> = different.into_iter().collect();
        assert_eq!(set.len(), different.len());
        // Longer than what one thread adds up, all signs changed.
        let x = random(3, &[1 << 17]);
        let turned = x.neg().unwrap();
        assert_ne!(
            bit_sums(std::slice::from_ref(&x)).unwrap(),
            bit_sums(&[turned]).unwrap()
        );
        assert_eq!(
            bit_sums(&[x.clone(), x.clone()]).unwrap()[0],
            bit_sums(&[x]).unwrap()[0]
        );
    }

    #[test]
    fn one_element_that_is_not_finite() {
        let large = (random(1, &[300, 70]).ones_like().unwrap() * f64::from(f32::MAX)).unwrap();
        assert!(finite(&[large.clone(), random(2, &[5])]).unwrap());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let bad = Tensor::new(&[0.0, bad], large.device()).unwrap();
            assert!(!finite(&[large.clone(), bad]).unwrap());
        }
        assert!(finite(&[]).unwrap());
    }
}
