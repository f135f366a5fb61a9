//! New tensors, and other element types.

use super::array::{Array, count};
use super::random::{normal, uniform};
use super::{Arguments, element_type, size, sizes};
use crate::{DType, Error, Op, Result};

pub fn convert(op: Op, arguments: &Arguments) -> Result<Array> {
    let [x] = arguments.tensors()?;
    match op {
        Op::Detach => Ok(x.clone()),
        Op::Cast => {
            let [dtype] = arguments.ints()?;
            match element_type(dtype)? {
                dtype if dtype == x.dtype => Ok(x.clone()),
                dtype => Array::new(x.shape.clone(), dtype, x.values()),
            }
        }
        _ => Err(Error::new("not a conversion")),
    }
}

pub fn run(op: Op, arguments: &Arguments) -> Result<Array> {
    let [_beside] = arguments.tensors()?;
    match (op, arguments.ints) {
        (Op::Full, [dtype, shape @ ..]) => {
            let ([value], shape) = (arguments.floats()?, sizes(shape)?);
            let values = vec![value; count(&shape)?];
            Array::new(shape, element_type(*dtype)?, values)
        }
        (Op::Arange, &[dtype, length]) => {
            let ([start, step], length) = (arguments.floats()?, size(length)?);
            let dtype = element_type(dtype)?;
            if dtype == DType::Bool {
                return Err(Error::new("truth values cannot be counted"));
            }
            let values = (0..count(&[length])?).map(|i| start + step * i as f64);
            Array::new(vec![length], dtype, values.collect())
        }
        (Op::Rand | Op::Randn, [seed, stream, shape @ ..]) => {
            let ([a, b], shape) = (arguments.floats()?, sizes(shape)?);
            let (seed, stream) = (seed.cast_unsigned(), stream.cast_unsigned());
            let number = |place: u64| match op {
                Op::Rand => below(a + uniform(seed, stream, place) * (b - a), b),
                _ => a + b * normal(seed, stream, place),
            };
            let values = (0..count(&shape)? as u64).map(number).collect();
            Array::new(shape, DType::F32, values)
        }
        _ => Err(Error::new("not a way to make a tensor from these numbers")),
    }
}

/// As f32, which must not round up to `high`.
fn below(x: f64, high: f64) -> f64 {
    let rounded = x as f32;
    match x < high && f64::from(rounded) >= high {
        true => rounded.next_down().into(),
        false => rounded.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::testing::reference::message;
    use crate::testing::tensor;

    fn beside() -> Tensor {
        tensor::<f32>(&[], &[0])
    }

    #[test]
    fn casts_round_and_ask_for_zero() {
        let x = tensor(&[0.0f32, -0.5, 2.9], &[3]);
        let to = |dtype| x.cast(dtype).unwrap();
        assert_eq!(to(DType::I64).to_vec::<i64>().unwrap(), [0, 0, 2]);
        assert_eq!(
            to(DType::Bool).to_vec::<bool>().unwrap(),
            [false, true, true]
        );
        assert_eq!(to(DType::BF16).dtype(), DType::BF16);
        assert_eq!(to(DType::BF16).to_vec_f32().unwrap(), [0.0, -0.5, 2.906_25]);
        let truth = tensor(&[true, false], &[2]);
        assert_eq!(truth.to_vec_f32().unwrap(), [1.0, 0.0]);
        let ids = truth.cast(DType::U32).unwrap();
        assert_eq!(ids.to_vec::<u32>().unwrap(), [1, 0]);
        let labels = tensor(&[-100i64], &[1]);
        assert!(message(labels.cast(DType::U32)).contains("-100 does not fit U32"));
    }

    #[test]
    fn new_tensors_have_the_type_asked_for() {
        let full = beside().new_full(&[2, 2], 7.0, DType::U32).unwrap();
        assert_eq!(full.to_vec::<u32>().unwrap(), [7; 4]);
        assert_eq!(full.zeros_like().unwrap().to_vec::<u32>().unwrap(), [0; 4]);
        let truth = beside().new_full(&[], 1.0, DType::Bool).unwrap();
        assert_eq!(truth.to_vec::<bool>().unwrap(), [true]);
        let count = beside().new_arange(5.0, -2.0, 3, DType::I64).unwrap();
        assert_eq!(count.to_vec::<i64>().unwrap(), [5, 3, 1]);
        let halves = beside().new_arange(0.0, 0.5, 3, DType::F32).unwrap();
        assert_eq!(halves.to_vec::<f32>().unwrap(), [0.0, 0.5, 1.0]);
        assert!(beside().new_full(&[1], -1.0, DType::U32).is_err());
        assert!(
            beside()
                .new_full(&[usize::MAX, 2], 0.0, DType::F32)
                .is_err()
        );
        assert!(beside().new_arange(0.0, 1.0, 2, DType::Bool).is_err());
    }

    #[test]
    fn random_numbers_depend_on_seed_and_stream_alone() {
        let draw = |place| {
            let x = beside().new_rand(&[1000], -1.0, 3.0, place).unwrap();
            x.to_vec::<f32>().unwrap()
        };
        let x = draw((1, 2));
        assert_eq!(x, draw((1, 2)));
        assert_ne!(x, draw((2, 1)));
        assert_ne!(x, draw((1, 3)));
        assert!(x.iter().all(|&x| (-1.0..3.0).contains(&x)));
        let mean = x.iter().sum::<f32>() / 1000.0;
        assert!((mean - 1.0).abs() < 0.15, "{mean}");
        assert_eq!(below(1.0 - 1e-12, 1.0), f64::from(1f32.next_down()));
    }

    #[test]
    fn normal_numbers_have_mean_and_deviation() {
        let x = beside().new_randn(&[4000], 2.0, 0.5, (7, 0)).unwrap();
        let mean = x.mean_all().unwrap();
        let deviation = x.sub(&mean).unwrap().sqr().unwrap().mean_all().unwrap();
        assert!((mean.item().unwrap() - 2.0).abs() < 0.03);
        assert!((deviation.item().unwrap().sqrt() - 0.5).abs() < 0.03);
    }
}
