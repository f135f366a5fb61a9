//! Exponential smoothing as TensorBoard does it: the start is corrected, so that it is not pulled towards zero.

/// The smoothed values. A NaN stays a NaN and does not affect the values after it.
pub fn smooth(values: &[f64], weight: f64) -> Vec<f64> {
    let (mut sum, mut norm) = (0.0, 0.0);
    values
        .iter()
        .map(|&value| {
            if !value.is_finite() {
                return f64::NAN;
            }
            sum = sum * weight + (1.0 - weight) * value;
            norm = norm * weight + (1.0 - weight);
            sum / norm
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_tensorboard_does() {
        let smoothed = smooth(&[1.0, 2.0, f64::NAN, 3.0], 0.9);
        // (0.1*1)/0.1, (0.09*1 + 0.1*2)/0.19, and (0.081*1 + 0.09*2 + 0.1*3)/0.271.
        let expected = [1.0, 0.29 / 0.19, f64::NAN, 0.561 / 0.271];
        for (value, expected) in smoothed.iter().zip(expected) {
            assert!(
                (value - expected).abs() < 1e-12 || (value.is_nan() && expected.is_nan()),
                "{value} {expected}"
            );
        }
        assert_eq!(smooth(&[5.0; 4], 0.99), [5.0; 4]);
        assert_eq!(smooth(&[1.0, 9.0], 0.0), [1.0, 9.0]);
        assert!(smooth(&[], 0.9).is_empty());
    }
}
