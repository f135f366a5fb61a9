//! Finite differences and comparisons for the tests of operations.

use super::host;
use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Normal-ish values in a fixed order.
pub fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    let values = (0..count).map(|_| (0..4).map(|_| rng.random::<f32>() - 0.5).sum::<f32>() * 1.7);
    Tensor::from_vec(values.collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
}

/// All elements as f64.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    host::with(tensor, |x: &[f32]| {
        Ok(x.iter().map(|&x| f64::from(x)).collect())
    })
    .unwrap()
}

/// Fails where the two differ by more than `tolerance` times the greatest of `expected` (or 1).
#[track_caller]
pub fn close(found: &Tensor, expected: &[f64], tolerance: f64) {
    let found = values(found);
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= tolerance * scale,
            "element {i}: {f}, expected {e}"
        );
    }
}

/// Checks `grad` against central differences of `f`, a sum over the op's output times fixed numbers.
#[track_caller]
pub fn finite_differences(x: &Tensor, grad: &Tensor, f: impl Fn(&Tensor) -> f64) {
    let (base, grad) = (values(x), values(grad));
    assert_eq!(base.len(), grad.len());
    let scale = grad.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
    let step = 1e-2;
    let stride = (base.len() / 60).max(1);
    for i in (0..base.len()).step_by(stride) {
        let at = |delta: f64| {
            let mut moved: Vec<f32> = base.iter().map(|&x| x as f32).collect();
            moved[i] += delta as f32;
            f(&Tensor::from_vec(moved, x.dims(), &Device::Cpu).unwrap())
        };
        // Fourth order, so that the step can be large against f32 rounding.
        let numeric =
            (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * step);
        assert!(
            (numeric - grad[i]).abs() <= 3e-3 * scale,
            "element {i}: gradient {}, finite differences {numeric}",
            grad[i]
        );
    }
}

/// `sum(a * b)` in f64.
pub fn dot(a: &Tensor, b: &Tensor) -> f64 {
    values(a).iter().zip(values(b)).map(|(a, b)| a * b).sum()
}
