//! Random tensors from a seed and a stream, the same numbers on every device ([`philox`](super::philox)).

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use anyhow::Result;
use candle_core::{DType, Device, Shape, Tensor};

pub use cpu::{normal_f32, random_bytes, uniform_f32};

/// The stream of random numbers for a name (FNV-1a).
pub fn stream(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A tensor of normal values.
pub fn normal(
    shape: impl Into<Shape>,
    std: f32,
    (seed, stream): (u64, u64),
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let shape = shape.into();
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        return cuda::normal(&shape, std, (seed, stream), dtype, cuda);
    }
    let values = normal_f32(shape.elem_count(), seed, stream, std);
    Ok(Tensor::from_vec(values, shape, device)?.to_dtype(dtype)?)
}

/// A tensor of uniform values in `[low, high)`, f32.
pub fn uniform(
    shape: impl Into<Shape>,
    (low, high): (f32, f32),
    (seed, stream): (u64, u64),
    device: &Device,
) -> Result<Tensor> {
    let shape = shape.into();
    let values = uniform_f32(shape.elem_count(), seed, stream, low, high);
    Ok(Tensor::from_vec(values, shape, device)?)
}

/// A tensor of random bytes in `low..low + span`, `span` up to 256.
pub fn bytes(
    shape: impl Into<Shape>,
    (low, span): (u8, u32),
    (seed, stream): (u64, u64),
    device: &Device,
) -> Result<Tensor> {
    let shape = shape.into();
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device {
        return cuda::bytes(&shape, (low, span), (seed, stream), cuda);
    }
    let values = random_bytes(shape.elem_count(), seed, stream, low, span);
    Ok(Tensor::from_vec(values, shape, device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_independence_of_length() {
        let x = normal_f32(100_001, 7, 3, 2.0);
        let mean = x.iter().sum::<f32>() / x.len() as f32;
        let var = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
        assert!(mean.abs() < 0.03 && (var - 4.0).abs() < 0.1, "{mean} {var}");
        assert_eq!(x[..10], normal_f32(10, 7, 3, 2.0));
        assert_ne!(x[..10], normal_f32(10, 7, 4, 2.0));
        let u = uniform_f32(1000, 1, 0, -1.0, 3.0);
        assert!(u.iter().all(|&u| (-1.0..3.0).contains(&u)));
        assert_eq!(
            random_bytes(7, 1, 0, 0, 256),
            random_bytes(16, 1, 0, 0, 256)[..7]
        );
        assert!(
            random_bytes(100, 1, 0, 120, 4)
                .iter()
                .all(|b| (120..124).contains(b))
        );
    }
}
