//! Loops that the compiler turns into SIMD instructions. They are compiled a second time for AVX2, and the version is
//! chosen at run time. No operation is fused or reordered by that, so the numbers are the same on every processor.

/// Defines a function whose body is compiled for AVX2, too, and runs that version where the processor has AVX2.
macro_rules! simd {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn plain($($arg: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    plain($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has the feature.
                    return unsafe { avx2($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}
pub(crate) use simd;

/// The number of elements that are computed side by side.
pub const LANES: usize = 16;

/// Computes `e^x` within 2 units in the last place, without branches (the polynomial of Cephes' `expf`); 0 below -87.3,
/// about 2.3e38 above 88.3.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = clamped * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4 * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(SHIFT.to_bits());
    let power = f32::from_bits(exponent.wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { y * power }
}

simd! {
    /// Replaces each `x` by `exp(x - shift)` and returns their sum, taken in [`LANES`] parts.
    pub fn exp_in_place(values: &mut [f32], shift: f32) -> f32 {
        let mut sums = [0f32; LANES];
        let (whole, rest) = values.as_chunks_mut::<LANES>();
        for chunk in whole {
            for (x, sum) in chunk.iter_mut().zip(&mut sums) {
                *x = exp(*x - shift);
                *sum += *x;
            }
        }
        for (x, sum) in rest.iter_mut().zip(&mut sums) {
            *x = exp(*x - shift);
            *sum += *x;
        }
        sums.iter().sum()
    }
}

simd! {
    /// Sums `exp(x - shift)`, taken in [`LANES`] parts.
    pub fn exp_sum(values: &[f32], shift: f32) -> f32 {
        let mut sums = [0f32; LANES];
        let (whole, rest) = values.as_chunks::<LANES>();
        for chunk in whole {
            for (x, sum) in chunk.iter().zip(&mut sums) {
                *sum += exp(x - shift);
            }
        }
        for (x, sum) in rest.iter().zip(&mut sums) {
            *sum += exp(x - shift);
        }
        sums.iter().sum()
    }
}

simd! {
    /// The greatest of `values` and `least`.
    pub fn max(values: &[f32], least: f32) -> f32 {
        let mut greatest = [least; LANES];
        let (whole, rest) = values.as_chunks::<LANES>();
        for chunk in whole {
            for (x, m) in chunk.iter().zip(&mut greatest) {
                *m = if *x > *m { *x } else { *m };
            }
        }
        rest.iter().chain(&greatest).copied().fold(least, f32::max)
    }
}

simd! {
    /// Adds `a * x` to `y`.
    pub fn axpy(y: &mut [f32], a: f32, x: &[f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += a * x;
        }
    }
}

simd! {
    /// Computes the inner product, taken in [`LANES`] parts.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        let mut sums = [0f32; LANES];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for ((a, b), sum) in a.iter().zip(b).zip(&mut sums) {
                *sum += a * b;
            }
        }
        for ((a, b), sum) in a_rest.iter().zip(b_rest).zip(&mut sums) {
            *sum += a * b;
        }
        sums.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_everywhere() {
        for i in -873_000..=883_000 {
            let x = i as f32 * 1e-4;
            let (found, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                (found - expected).abs() <= 2.4e-7 * expected,
                "exp({x}): {found}, expected {expected}"
            );
        }
        assert_eq!(
            (exp(0.0), exp(-1e4), exp(f32::NEG_INFINITY)),
            (1.0, 0.0, 0.0)
        );
        assert!(exp(f32::NAN).is_nan() && exp(f32::INFINITY) > 1e38);
    }

    #[test]
    fn sums_of_odd_lengths() {
        for len in [0, 1, 15, 16, 37] {
            let x: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin()).collect();
            let close = |a: f32, b: f32| (a - b).abs() < 1e-5 * b.abs().max(1.0);
            let expected: f32 = x.iter().map(|x| (x - 0.5).exp()).sum();
            assert!(close(exp_sum(&x, 0.5), expected));
            assert!(close(exp_in_place(&mut x.clone(), 0.5), expected));
            assert!(close(dot(&x, &x), x.iter().map(|x| x * x).sum()));
            assert_eq!(max(&x, -0.2), x.iter().copied().fold(-0.2, f32::max));
        }
    }
}
