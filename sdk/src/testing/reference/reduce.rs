//! Operations along a dimension.

use super::Arguments;
use super::array::{Array, count};
use crate::{DType, Error, Op, Result};
use std::cmp::Ordering;

pub fn run(op: Op, arguments: &Arguments) -> Result<Array> {
    let [x] = arguments.tensors()?;
    if op == Op::ArgSort {
        let [dim, descending] = arguments.ints()?;
        let dim = x.dim(dim)?;
        let sort = |lane: &[f64]| sorting(lane, descending != 0);
        return along(x, dim, x.shape[dim], DType::U32, sort);
    }
    let [dim] = arguments.ints()?;
    let dim = x.dim(dim)?;
    match op {
        Op::Sum => x.numbers()?,
        Op::Mean | Op::Softmax | Op::LogSoftmax | Op::CumSum => x.floats()?,
        _ => {}
    }
    let of_something = [Op::Mean, Op::Max, Op::Min, Op::ArgMax, Op::ArgMin].contains(&op);
    if of_something && x.shape[dim] == 0 {
        return Err(Error::new(format!("dimension {dim} has no elements")));
    }
    let one = |dtype, f: fn(&[f64]) -> f64| along(x, dim, 1, dtype, |lane| vec![f(lane)]);
    let each = |f: fn(&[f64]) -> Vec<f64>| along(x, dim, x.shape[dim], x.dtype, f);
    match op {
        Op::Sum => one(x.dtype, |lane| lane.iter().sum()),
        Op::Mean => one(x.dtype, |lane| lane.iter().sum::<f64>() / lane.len() as f64),
        Op::Max => one(x.dtype, |lane| lane[first(lane, Ordering::Greater)]),
        Op::Min => one(x.dtype, |lane| lane[first(lane, Ordering::Less)]),
        Op::ArgMax => one(DType::U32, |lane| first(lane, Ordering::Greater) as f64),
        Op::ArgMin => one(DType::U32, |lane| first(lane, Ordering::Less) as f64),
        Op::Softmax => each(|lane| log_softmax(lane).into_iter().map(f64::exp).collect()),
        Op::LogSoftmax => each(log_softmax),
        Op::CumSum => each(cumsum),
        _ => Err(Error::new("not an operation along a dimension")),
    }
}

/// Puts what `f` makes of each lane of a dimension, `len` numbers, in its place.
fn along(
    x: &Array,
    dim: usize,
    len: usize,
    dtype: DType,
    f: impl Fn(&[f64]) -> Vec<f64>,
) -> Result<Array> {
    let (n, values) = (x.shape[dim], x.values());
    let (outer, inner) = (count(&x.shape[..dim])?, count(&x.shape[dim + 1..])?);
    let mut shape = x.shape.clone();
    shape[dim] = len;
    let mut out = vec![0.0; count(&shape)?];
    for o in 0..outer {
        for i in 0..inner {
            let lane: Vec<f64> = (0..n).map(|k| values[(o * n + k) * inner + i]).collect();
            for (k, y) in f(&lane).into_iter().enumerate() {
                out[(o * len + k) * inner + i] = y;
            }
        }
    }
    Array::new(shape, dtype, out)
}

/// Place of the first of the greatest or least; what is not a number counts as both.
fn first(lane: &[f64], wanted: Ordering) -> usize {
    let mut best = 0;
    for (i, x) in lane.iter().enumerate() {
        let better = x.partial_cmp(&lane[best]) == Some(wanted) || x.is_nan();
        if better && !lane[best].is_nan() {
            best = i;
        }
    }
    best
}

/// Equals stay in their order; what is not a number counts as greater than all.
fn sorting(lane: &[f64], descending: bool) -> Vec<f64> {
    let order = |a: f64, b: f64| match a.partial_cmp(&b) {
        Some(order) => order,
        None => a.is_nan().cmp(&b.is_nan()),
    };
    let mut places: Vec<usize> = (0..lane.len()).collect();
    places.sort_by(|&a, &b| match descending {
        true => order(lane[b], lane[a]),
        false => order(lane[a], lane[b]),
    });
    places.into_iter().map(|place| place as f64).collect()
}

fn log_softmax(lane: &[f64]) -> Vec<f64> {
    let greatest = lane.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = lane.iter().map(|x| (x - greatest).exp()).sum();
    let log_sum = greatest + sum.ln();
    lane.iter().map(|x| x - log_sum).collect()
}

fn cumsum(lane: &[f64]) -> Vec<f64> {
    let mut sum = 0.0;
    let running = |x: &f64| {
        sum += x;
        sum
    };
    lane.iter().map(running).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::testing::tensor;

    fn x() -> Tensor {
        tensor(&[3.0f32, 1.0, 2.0, -1.0, 5.0, 5.0], &[2, 3])
    }

    fn same(found: Result<Tensor>, shape: &[usize], values: &[f32]) {
        let found = found.unwrap();
        assert_eq!(found.shape(), shape);
        assert_eq!(found.to_vec_f32().unwrap(), values);
    }

    #[test]
    fn reductions_keep_the_dimension() {
        same(x().sum(0), &[1, 3], &[2., 6., 7.]);
        same(x().sum(1), &[2, 1], &[6., 9.]);
        same(x().mean(1), &[2, 1], &[2., 3.]);
        same(x().max(0), &[1, 3], &[3., 5., 5.]);
        same(x().min(1), &[2, 1], &[1., -1.]);
        same(x().sum_all(), &[], &[15.]);
        same(x().mean_all(), &[], &[2.5]);
        assert_eq!(x().sum_all().unwrap().item().unwrap(), 15.0);
        assert!(x().sum(2).is_err() && tensor(&[1.0f32], &[]).sum(0).is_err());
    }

    #[test]
    fn the_first_extreme_is_found() {
        assert_eq!(x().argmax(1).unwrap().dtype(), DType::U32);
        same(x().argmax(1), &[2, 1], &[0., 1.]);
        same(x().argmin(0), &[1, 3], &[1., 0., 0.]);
        let holes = tensor(&[1.0f32, f32::NAN, 2.0], &[3]);
        same(holes.argmax(0), &[1], &[1.]);
        assert!(holes.min(0).unwrap().item().unwrap().is_nan());
    }

    #[test]
    fn argsort_both_ways() {
        assert_eq!(x().argsort(1, false).unwrap().dtype(), DType::U32);
        same(x().argsort(1, false), &[2, 3], &[1., 2., 0., 0., 1., 2.]);
        same(x().argsort(1, true), &[2, 3], &[0., 2., 1., 1., 2., 0.]);
        same(x().argsort(0, false), &[2, 3], &[1., 0., 0., 0., 1., 1.]);
        let (sorted, _) = x().sort(0, true).unwrap();
        same(Ok(sorted), &[2, 3], &[3., 5., 5., -1., 1., 2.]);
        let (top, places) = x().topk(1, 2).unwrap();
        same(Ok(top), &[2, 2], &[3., 2., 5., 5.]);
        same(Ok(places), &[2, 2], &[0., 2., 1., 2.]);
        assert!(x().topk(1, 4).is_err() && x().topk(2, 1).is_err());
    }

    #[test]
    fn sums_run() {
        same(x().cumsum(1), &[2, 3], &[3., 4., 6., -1., 4., 9.]);
        same(x().cumsum(0), &[2, 3], &[3., 1., 2., 2., 6., 7.]);
    }

    #[test]
    fn softmax_is_stable() {
        let x = tensor(&[1000.0f32, 1000.0, 0.0, 3f32.ln()], &[2, 2]);
        let found = x.softmax(1).unwrap().to_vec::<f32>().unwrap();
        for (found, expected) in found.iter().zip([0.5, 0.5, 0.25, 0.75]) {
            assert!((found - expected).abs() < 1e-7);
        }
        let logs = x.log_softmax(1).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(logs[0], -(2f32.ln()));
        let hidden = tensor(&[0.0f32, f32::NEG_INFINITY], &[2]);
        same(hidden.softmax(0), &[2], &[1., 0.]);
        assert!(tensor(&[1u32], &[1]).softmax(0).is_err());
    }

    #[test]
    fn logsumexp_by_its_formula() {
        let found = x().logsumexp(1).unwrap();
        assert_eq!(found.shape(), [2, 1]);
        for (found, row) in found
            .to_vec::<f32>()
            .unwrap()
            .into_iter()
            .zip([[3.0f64, 1.0, 2.0], [-1.0, 5.0, 5.0]])
        {
            let expected = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            assert!(
                (f64::from(found) - expected).abs() < 1e-6,
                "{found} {expected}"
            );
        }
        let infinity = f32::INFINITY;
        let edges = [1e30, 1e30, -infinity, -infinity, infinity, 0.0];
        let edges = tensor(&edges, &[3, 2]).logsumexp(1);
        same(edges, &[3, 1], &[1e30, -infinity, infinity]);
    }

    #[test]
    fn norms_of_rows_and_of_everything() {
        let x = tensor(&[3.0f32, -4.0, 0.0, 0.0, 12.0, 0.0], &[3, 2]);
        same(x.norm(1), &[3, 1], &[5.0, 0.0, 12.0]);
        same(x.norm_all(), &[], &[13.0]);
        same(tensor(&[-2.0f32], &[]).norm_all(), &[], &[2.0]);
        let half = x.cast(DType::BF16).unwrap().norm_all().unwrap();
        assert_eq!((half.dtype(), half.item()), (DType::BF16, Ok(13.0)));
        let holes = tensor(&[f32::NAN, 1.0], &[2]).norm_all();
        assert!(holes.unwrap().item().unwrap().is_nan());
    }

    #[test]
    fn nothing_has_no_mean() {
        let nothing = tensor::<f32>(&[], &[2, 0]);
        same(nothing.sum(1), &[2, 1], &[0., 0.]);
        same(nothing.max(0), &[1, 0], &[]);
        same(nothing.softmax(1), &[2, 0], &[]);
        assert!(nothing.mean(1).is_err() && nothing.max(1).is_err() && nothing.mean_all().is_err());
    }

    #[test]
    fn element_types_stay() {
        let x = tensor(&[3u32, 9], &[2]);
        assert_eq!(x.sum(0).unwrap().to_vec::<u32>().unwrap(), [12]);
        assert_eq!(x.max(0).unwrap().to_vec::<u32>().unwrap(), [9]);
        assert!(x.mean(0).is_err());
        let truth = tensor(&[true, false], &[2]);
        assert_eq!(truth.max(0).unwrap().to_vec::<bool>().unwrap(), [true]);
        assert!(truth.sum(0).is_err());
    }
}
