//! Operations on each element of one tensor.

use super::Arguments;
use super::array::Array;
use crate::{DType, Error, Op, Result};

pub fn unary(op: Op, arguments: &Arguments) -> Result<Array> {
    let [x] = arguments.tensors()?;
    match op {
        Op::Not => x.truths()?,
        _ => x.floats()?,
    }
    let f: fn(f64) -> f64 = match op {
        Op::Neg => |x| -x,
        Op::Exp => f64::exp,
        Op::Log => f64::ln,
        Op::Sqrt => f64::sqrt,
        Op::Sqr => |x| x * x,
        Op::Abs => f64::abs,
        Op::Sign => |x| f64::from(i8::from(x > 0.0) - i8::from(x < 0.0)),
        Op::Sin => f64::sin,
        Op::Cos => f64::cos,
        Op::Tanh => f64::tanh,
        Op::Sigmoid => |x| 1.0 / (1.0 + (-x).exp()),
        Op::Erf => erf,
        Op::Relu => |x| if x < 0.0 { 0.0 } else { x },
        Op::Recip => |x| 1.0 / x,
        Op::Floor => f64::floor,
        Op::Ceil => f64::ceil,
        Op::Round => f64::round,
        Op::Not => |x| 1.0 - x,
        _ => return Err(Error::new("not an operation on one tensor")),
    };
    map(x, f)
}

pub fn with_numbers(op: Op, arguments: &Arguments) -> Result<Array> {
    let [x] = arguments.tensors()?;
    match op {
        Op::Affine => {
            let [mul, add] = arguments.floats()?;
            fits(x, mul)?;
            fits(x, add)?;
            map(x, |x| x * mul + add)
        }
        Op::Powf => {
            let [exponent] = arguments.floats()?;
            x.floats()?;
            map(x, |x| x.powf(exponent))
        }
        Op::Clamp => {
            let [low, high] = arguments.floats()?;
            for bound in [low, high] {
                if bound.is_finite() {
                    fits(x, bound)?;
                }
            }
            // Not a number is neither.
            if !matches!(low.partial_cmp(&high), Some(order) if order.is_le()) {
                return Err(Error::new(format!("nothing is between {low} and {high}")));
            }
            map(x, |x| x.clamp(low, high))
        }
        _ => Err(Error::new("not an operation with real numbers")),
    }
}

fn map(x: &Array, f: impl Fn(f64) -> f64) -> Result<Array> {
    let values = x.values().into_iter().map(f).collect();
    Array::new(x.shape.clone(), x.dtype, values)
}

/// Whole numbers are computed with whole numbers, truth values not at all.
fn fits(x: &Array, number: f64) -> Result<()> {
    x.numbers()?;
    match x.dtype {
        DType::I64 | DType::U32 if number.fract() != 0.0 => {
            Err(Error::new(format!("{number} is no whole number")))
        }
        _ => Ok(()),
    }
}

/// By the series `2/sqrt(pi) e^(-x^2) sum of 2^n x^(2n+1) / (1 3 5 .. 2n+1)`, all of whose terms
/// have one sign.
fn erf(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::testing::reference::message;
    use crate::testing::tensor;

    fn of(x: &[f32], f: impl Fn(&Tensor) -> Result<Tensor>) -> Vec<f32> {
        f(&tensor(x, &[x.len()])).unwrap().to_vec().unwrap()
    }

    fn close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() <= 2e-7 * expected.abs(),
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn functions_by_their_values() {
        assert_eq!(of(&[-2.0, 0.0, 3.0], Tensor::neg), [2.0, 0.0, -3.0]);
        close(&of(&[0.0, 2.0], Tensor::exp), &[1.0, 7.389_056]);
        close(&of(&[1.0, 5.0], Tensor::log), &[0.0, 1.609_438]);
        assert_eq!(of(&[0.0], Tensor::log), [f32::NEG_INFINITY]);
        assert_eq!(of(&[2.25], Tensor::sqrt), [1.5]);
        assert!(of(&[-1.0], Tensor::sqrt)[0].is_nan());
        assert_eq!(of(&[-3.0, 0.5], Tensor::sqr), [9.0, 0.25]);
        assert_eq!(of(&[-3.0, 0.5], Tensor::abs), [3.0, 0.5]);
        assert_eq!(of(&[-3.0, 0.0, 0.5], Tensor::sign), [-1.0, 0.0, 1.0]);
        close(&of(&[1.0], Tensor::sin), &[0.841_470_96]);
        close(&of(&[1.0], Tensor::cos), &[0.540_302_3]);
        close(&of(&[1.0], Tensor::tanh), &[0.761_594_2]);
        close(
            &of(&[0.0, 2.0, -200.0], Tensor::sigmoid),
            &[0.5, 0.880_797, 0.0],
        );
        assert_eq!(of(&[-1.0, 0.0, 2.0], Tensor::relu), [0.0, 0.0, 2.0]);
        assert_eq!(of(&[4.0, 0.0], Tensor::recip), [0.25, f32::INFINITY]);
    }

    #[test]
    fn rounding_in_each_direction() {
        let x = [-1.5, -0.4, 0.5, 2.5];
        assert_eq!(of(&x, Tensor::floor), [-2.0, -1.0, 0.0, 2.0]);
        assert_eq!(of(&x, Tensor::ceil), [-1.0, 0.0, 1.0, 3.0]);
        assert_eq!(of(&x, Tensor::round), [-2.0, 0.0, 1.0, 3.0]);
    }

    #[test]
    fn erf_by_its_table() {
        close(
            &of(&[0.0, 0.5, 1.0, -2.0, 3.5, 9.0], Tensor::erf),
            &[
                0.0,
                0.520_499_9,
                0.842_700_8,
                -0.995_322_3,
                0.999_999_3,
                1.0,
            ],
        );
        assert!((erf(1.0) - 0.842_700_792_949_714_9).abs() < 1e-15);
        assert!((erf(5.0) - 0.999_999_999_998_462_5).abs() < 1e-14);
    }

    #[test]
    fn truth_turns_round() {
        let not = tensor(&[true, false], &[2]).logical_not().unwrap();
        assert_eq!(not.to_vec::<bool>().unwrap(), [false, true]);
        assert!(message(tensor(&[1.0f32], &[1]).logical_not()).contains("truth values"));
    }

    #[test]
    fn affine_and_power() {
        assert_eq!(of(&[1.0, -2.0], |x| x.affine(3.0, 0.5)), [3.5, -5.5]);
        assert_eq!(of(&[4.0, 9.0], |x| x.powf(0.5)), [2.0, 3.0]);
        let x = tensor(&[1u32, 2], &[2]);
        assert_eq!(x.affine(2.0, 1.0).unwrap().to_vec::<u32>().unwrap(), [3, 5]);
        assert!(message(x.affine(0.5, 0.0)).contains("0.5 is no whole number"));
        assert!(message(x.affine(1.0, -2.0)).contains("-1 does not fit U32"));
        assert!(message(x.powf(2.0)).contains("floats"));
        assert!(message(x.exp()).contains("floats"));
    }

    #[test]
    fn lerp_ends_at_its_ends() {
        let (from, to) = (tensor(&[0.1f32, -7.0], &[2]), tensor(&[0.3f32], &[1]));
        let at = |weight| from.lerp(&to, weight).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(at(0.0), [0.1, -7.0]);
        assert_eq!(at(1.0), [0.3, 0.3]);
        close(&at(0.25), &[0.15, -5.175]);
        close(&at(0.75), &[0.25, -1.525]);
        assert_eq!(of(&[1.0, -2.0], |x| x.scale(0.5)), [0.5, -1.0]);
    }

    #[test]
    fn clamp_leaves_infinite_sides_open() {
        let x = [-5.0, 0.0, 5.0, f32::INFINITY];
        let (low, high) = (f64::NEG_INFINITY, f64::INFINITY);
        assert_eq!(of(&x, |x| x.clamp(-1.0, 1.0)), [-1.0, 0.0, 1.0, 1.0]);
        assert_eq!(
            of(&x, |x| x.clamp(-1.0, high)),
            [-1.0, 0.0, 5.0, f32::INFINITY]
        );
        assert_eq!(of(&x, |x| x.clamp(low, 1.0)), [-5.0, 0.0, 1.0, 1.0]);
        assert_eq!(of(&x, |x| x.clamp(low, high)), x);
        assert!(of(&[f32::NAN], |x| x.clamp(0.0, 1.0))[0].is_nan());
        let x = tensor(&x, &[4]);
        assert!(x.clamp(1.0, -1.0).is_err() && x.clamp(f64::NAN, 1.0).is_err());
    }
}
