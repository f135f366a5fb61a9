//! Operations on the elements of two or three tensors, and matrix products.

use super::Arguments;
use super::array::{Array, count};
use super::shape::{place, spread, together, visit};
use crate::{DType, Error, Op, Result};

pub fn run(op: Op, arguments: &Arguments) -> Result<Array> {
    if op == Op::Where {
        let [cond, a, b] = arguments.tensors()?;
        return choose(cond, a, b);
    }
    let [a, b] = arguments.tensors()?;
    same_type(a, b)?;
    match op {
        Op::Matmul => matmul(a, b),
        Op::And | Op::Or => {
            a.truths()?;
            match op {
                Op::And => zip(a, b, DType::Bool, f64::min),
                _ => zip(a, b, DType::Bool, f64::max),
            }
        }
        Op::Eq => compare(a, b, |a, b| a == b),
        Op::Ne => compare(a, b, |a, b| a != b),
        Op::Lt => compare(a, b, |a, b| a < b),
        Op::Le => compare(a, b, |a, b| a <= b),
        Op::Gt => compare(a, b, |a, b| a > b),
        Op::Ge => compare(a, b, |a, b| a >= b),
        _ => arithmetic(op, a, b),
    }
}

fn arithmetic(op: Op, a: &Array, b: &Array) -> Result<Array> {
    a.numbers()?;
    let f: fn(f64, f64) -> f64 = match op {
        Op::Add => |a, b| a + b,
        Op::Sub => |a, b| a - b,
        Op::Mul => |a, b| a * b,
        Op::Div if a.floats().is_ok() => |a, b| a / b,
        Op::Div if b.values().contains(&0.0) => {
            return Err(Error::new("a whole number is divided by 0"));
        }
        Op::Div => |a, b| (a as i64 / b as i64) as f64,
        Op::Maximum => |a, b| if a.is_nan() || a > b { a } else { b },
        Op::Minimum => |a, b| if a.is_nan() || a < b { a } else { b },
        _ => return Err(Error::new("not an operation on two tensors")),
    };
    zip(a, b, a.dtype, f)
}

fn compare(a: &Array, b: &Array, f: fn(f64, f64) -> bool) -> Result<Array> {
    zip(a, b, DType::Bool, |a, b| f64::from(u8::from(f(a, b))))
}

fn zip(a: &Array, b: &Array, dtype: DType, f: impl Fn(f64, f64) -> f64) -> Result<Array> {
    let shape = together(&a.shape, &b.shape)?;
    let pairs = spread(a, &shape)?.into_iter().zip(spread(b, &shape)?);
    Array::new(shape, dtype, pairs.map(|(a, b)| f(a, b)).collect())
}

fn choose(cond: &Array, a: &Array, b: &Array) -> Result<Array> {
    cond.truths()?;
    same_type(a, b)?;
    let shape = together(&together(&cond.shape, &a.shape)?, &b.shape)?;
    let pairs = spread(a, &shape)?.into_iter().zip(spread(b, &shape)?);
    let chosen = spread(cond, &shape)?
        .into_iter()
        .zip(pairs)
        .map(|(cond, (a, b))| if cond == 1.0 { a } else { b });
    Array::new(shape, a.dtype, chosen.collect())
}

fn matmul(a: &Array, b: &Array) -> Result<Array> {
    a.floats()?;
    let ([a_lead @ .., m, k], [b_lead @ .., rows, n]) = (&*a.shape, &*b.shape) else {
        return Err(Error::new("matrices are needed"));
    };
    if k != rows {
        return Err(Error::new(format!("{k} columns against {rows} rows")));
    }
    let lead = together(a_lead, b_lead)?;
    let with = |last: [usize; 2]| [&lead[..], &last].concat();
    let (a_shape, b_shape, shape) = (with([*m, *k]), with([*k, *n]), with([*m, *n]));
    let (a_values, b_values) = (spread(a, &a_shape)?, spread(b, &b_shape)?);
    let mut out = Vec::with_capacity(count(&shape)?);
    visit(&shape, |at| {
        let (row, column) = (at[lead.len()], at[lead.len() + 1]);
        let lead = &at[..lead.len()];
        let a_at = |i: usize| place(&[lead, &[row, i]].concat(), &a_shape);
        let b_at = |i: usize| place(&[lead, &[i, column]].concat(), &b_shape);
        out.push((0..*k).map(|i| a_values[a_at(i)] * b_values[b_at(i)]).sum());
    });
    Array::new(shape, a.dtype, out)
}

fn same_type(a: &Array, b: &Array) -> Result<()> {
    match a.dtype == b.dtype {
        true => Ok(()),
        false => Err(Error::new("one element type is needed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::testing::reference::message;
    use crate::testing::tensor;

    fn bits(found: &Tensor) -> Vec<u8> {
        let found = found.to_vec::<bool>().unwrap();
        found.into_iter().map(u8::from).collect()
    }

    #[test]
    fn arithmetic_broadcasts() {
        let column = tensor(&[1.0f32, 2.0], &[2, 1]);
        let row = tensor(&[10.0f32, 20.0, 40.0], &[3]);
        let values = |x: Result<Tensor>| x.unwrap().to_vec::<f32>().unwrap();
        let sum = column.add(&row).unwrap();
        assert_eq!(sum.shape(), [2, 3]);
        assert_eq!(values(Ok(sum)), [11., 21., 41., 12., 22., 42.]);
        assert_eq!(values(column.sub(&row)), [-9., -19., -39., -8., -18., -38.]);
        assert_eq!(values(column.mul(&row)), [10., 20., 40., 20., 40., 80.]);
        assert_eq!(values(row.div(&column)), [10., 20., 40., 5., 10., 20.]);
        let two = tensor(&[15.0f32], &[]);
        assert_eq!(values(row.maximum(&two)), [15., 20., 40.]);
        assert_eq!(values(row.minimum(&two)), [10., 15., 15.]);
        let nan = tensor(&[f32::NAN], &[]);
        assert!(values(nan.maximum(&two))[0].is_nan() && values(two.minimum(&nan))[0].is_nan());
        assert!(row.add(&tensor(&[1.0f32, 2.0], &[2])).is_err());
    }

    #[test]
    fn whole_numbers_stay_whole() {
        let (a, b) = (tensor(&[7i64, -7], &[2]), tensor(&[2i64], &[]));
        assert_eq!(a.div(&b).unwrap().to_vec::<i64>().unwrap(), [3, -3]);
        assert!(message(a.div(&tensor(&[0i64], &[]))).contains("divided by 0"));
        let (a, b) = (tensor(&[1u32], &[1]), tensor(&[2u32], &[1]));
        assert!(message(a.sub(&b)).contains("-1 does not fit U32"));
        assert!(message(a.matmul(&b)).contains("floats"));
        let truth = tensor(&[true], &[1]);
        assert!(message(truth.add(&truth)).contains("cast"));
    }

    #[test]
    fn comparisons_give_truth_values() {
        let (a, b) = (
            tensor(&[1.0f32, 2.0, f32::NAN], &[3]),
            tensor(&[2.0f32], &[1]),
        );
        assert_eq!(a.lt(&b).unwrap().dtype(), DType::Bool);
        assert_eq!(bits(&a.eq(&b).unwrap()), [0, 1, 0]);
        assert_eq!(bits(&a.ne(&b).unwrap()), [1, 0, 1]);
        assert_eq!(bits(&a.lt(&b).unwrap()), [1, 0, 0]);
        assert_eq!(bits(&a.le(&b).unwrap()), [1, 1, 0]);
        assert_eq!(bits(&a.gt(&b).unwrap()), [0, 0, 0]);
        assert_eq!(bits(&a.ge(&b).unwrap()), [0, 1, 0]);
    }

    #[test]
    fn logic_is_for_truth_values() {
        let a = tensor(&[true, false], &[2, 1]);
        let b = tensor(&[true, false], &[2]);
        assert_eq!(bits(&a.logical_and(&b).unwrap()), [1, 0, 0, 0]);
        assert_eq!(bits(&a.logical_or(&b).unwrap()), [1, 1, 1, 0]);
        let x = tensor(&[1.0f32], &[1]);
        assert!(x.logical_and(&x).is_err() && a.logical_or(&x).is_err());
    }

    #[test]
    fn where_chooses() {
        let cond = tensor(&[true, false], &[2, 1]);
        let (a, b) = (tensor(&[1.0f32, 2.0], &[2]), tensor(&[9.0f32], &[]));
        let chosen = cond.where_cond(&a, &b).unwrap();
        assert_eq!(chosen.shape(), [2, 2]);
        assert_eq!(chosen.to_vec::<f32>().unwrap(), [1., 2., 9., 9.]);
        assert!(a.where_cond(&a, &b).is_err());
        assert!(cond.where_cond(&a, &tensor(&[1u32], &[])).is_err());
    }

    #[test]
    fn matrices_multiply() {
        let a = tensor(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2]);
        let b = tensor(&[5.0f32, 6.0, 7.0, 8.0], &[2, 2]);
        let product = a.matmul(&b).unwrap();
        assert_eq!(product.to_vec::<f32>().unwrap(), [19., 22., 43., 50.]);
        let many = tensor(&[1.0f32, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 2.0], &[2, 2, 2]);
        let column = tensor(&[1.0f32, 3.0], &[2, 1]);
        let product = many.matmul(&column).unwrap();
        assert_eq!(product.shape(), [2, 2, 1]);
        assert_eq!(product.to_vec::<f32>().unwrap(), [1., 3., 2., 6.]);
        assert!(column.matmul(&a).is_err());
        assert!(a.matmul(&tensor(&[1.0f32, 2.0], &[2])).is_err());
    }
}
