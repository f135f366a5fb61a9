//! Operations that move elements, and how shapes fit together.

use super::array::{Array, count};
use super::{Arguments, size, sizes};
use crate::{Error, Op, Result};

pub fn run(op: Op, arguments: &Arguments) -> Result<Array> {
    if op == Op::Cat {
        let [dim] = arguments.ints()?;
        return cat(&arguments.tensors, dim);
    }
    let [x] = arguments.tensors()?;
    match op {
        Op::Reshape => x.reshaped(sizes(arguments.ints)?),
        Op::Permute => permute(x, &sizes(arguments.ints)?),
        Op::Narrow => {
            let [dim, start, len] = arguments.ints()?;
            narrow(x, x.dim(dim)?, size(start)?, size(len)?)
        }
        Op::BroadcastTo => {
            let shape = sizes(arguments.ints)?;
            let values = spread(x, &shape)?;
            Array::new(shape, x.dtype, values)
        }
        _ => Err(Error::new("not an operation on shapes")),
    }
}

/// Visits the coordinates of all elements, row by row.
pub fn visit(shape: &[usize], mut each: impl FnMut(&[usize])) {
    if shape.contains(&0) {
        return;
    }
    let mut at = vec![0; shape.len()];
    loop {
        each(&at);
        let Some(dim) = (0..shape.len()).rfind(|&dim| at[dim] + 1 < shape[dim]) else {
            return;
        };
        at[dim] += 1;
        at[dim + 1..].fill(0);
    }
}

/// Which element of a tensor of this shape, row by row, has these coordinates.
pub fn place(at: &[usize], shape: &[usize]) -> usize {
    at.iter()
        .zip(shape)
        .fold(0, |place, (at, n)| place * n + at)
}

/// The shape that two shapes broadcast to: aligned at the end, a length of 1 gives way.
pub fn together(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let length = |shape: &[usize], dim: usize| match (dim + shape.len()).checked_sub(rank) {
        Some(dim) => shape[dim],
        None => 1,
    };
    (0..rank)
        .map(|dim| match (length(a, dim), length(b, dim)) {
            (m, n) if m == n => Ok(m),
            (1, n) => Ok(n),
            (m, 1) => Ok(m),
            _ => Err(Error::new(format!("{a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}

/// The elements of `x`, repeated to `shape`.
pub fn spread(x: &Array, shape: &[usize]) -> Result<Vec<f64>> {
    if together(&x.shape, shape)? != shape {
        return Err(Error::new(format!("does not broadcast to {shape:?}")));
    }
    let values = x.values();
    let mut out = Vec::with_capacity(count(shape)?);
    let new = shape.len() - x.shape.len();
    visit(shape, |at| {
        let own = at[new..].iter().zip(&x.shape);
        let own = own.map(|(&at, &n)| if n == 1 { 0 } else { at });
        out.push(values[place(&own.collect::<Vec<_>>(), &x.shape)]);
    });
    Ok(out)
}

fn permute(x: &Array, dims: &[usize]) -> Result<Array> {
    let mut sorted = dims.to_vec();
    sorted.sort_unstable();
    if sorted != (0..x.shape.len()).collect::<Vec<_>>() {
        return Err(Error::new(format!(
            "{dims:?} is no order of its dimensions"
        )));
    }
    let shape: Vec<usize> = dims.iter().map(|&dim| x.shape[dim]).collect();
    let values = x.values();
    let mut out = Vec::with_capacity(values.len());
    let mut from = vec![0; dims.len()];
    visit(&shape, |at| {
        for (&dim, &at) in dims.iter().zip(at) {
            from[dim] = at;
        }
        out.push(values[place(&from, &x.shape)]);
    });
    Array::new(shape, x.dtype, out)
}

fn narrow(x: &Array, dim: usize, start: usize, len: usize) -> Result<Array> {
    match start.checked_add(len) {
        Some(end) if end <= x.shape[dim] => {}
        _ => {
            return Err(Error::new(format!(
                "{len} entries from {start} are not in dimension {dim}"
            )));
        }
    }
    let mut shape = x.shape.clone();
    shape[dim] = len;
    let values = x.values();
    let mut out = Vec::with_capacity(count(&shape)?);
    visit(&shape, |at| {
        let mut from = at.to_vec();
        from[dim] += start;
        out.push(values[place(&from, &x.shape)]);
    });
    Array::new(shape, x.dtype, out)
}

fn cat(tensors: &[&Array], dim: i64) -> Result<Array> {
    let [first, ..] = tensors else {
        return Err(Error::new("a tensor is needed"));
    };
    let dim = first.dim(dim)?;
    let mut shape = first.shape.clone();
    shape[dim] = 0;
    for tensor in tensors {
        let mut fits = tensor.shape.clone();
        match fits.get_mut(dim) {
            Some(len) => *len = first.shape[dim],
            None => return Err(Error::new(format!("there is no dimension {dim}"))),
        }
        if fits != first.shape || tensor.dtype != first.dtype {
            return Err(Error::new(format!(
                "they differ elsewhere than in dimension {dim}"
            )));
        }
        shape[dim] += tensor.shape[dim];
    }
    let mut out = vec![0.0; count(&shape)?];
    let mut start = 0;
    for tensor in tensors {
        let mut values = tensor.values().into_iter();
        visit(&tensor.shape, |at| {
            let mut to = at.to_vec();
            to[dim] += start;
            out[place(&to, &shape)] = values.next().unwrap_or_default();
        });
        start += tensor.shape[dim];
    }
    Array::new(shape, first.dtype, out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::testing::tensor;

    /// 0, 1, 2, ..
    fn counting(shape: &[usize]) -> Tensor {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|i: usize| i as f32)
            .collect();
        tensor(&values, shape)
    }

    fn same(found: &Tensor, shape: &[usize], values: &[f32]) {
        assert_eq!(found.shape(), shape);
        assert_eq!(found.to_vec::<f32>().unwrap(), values);
    }

    #[test]
    fn shapes_fit_together_as_in_numpy() {
        assert_eq!(together(&[3, 1], &[2]).unwrap(), [3, 2]);
        assert_eq!(together(&[], &[2, 5]).unwrap(), [2, 5]);
        assert_eq!(together(&[1], &[0]).unwrap(), [0]);
        assert!(together(&[2, 3], &[2]).is_err());
    }

    #[test]
    fn reshape_keeps_the_elements() {
        let x = counting(&[2, 3]);
        same(
            &x.reshape(&[3, 2]).unwrap(),
            &[3, 2],
            &[0., 1., 2., 3., 4., 5.],
        );
        same(
            &x.unsqueeze(1).unwrap(),
            &[2, 1, 3],
            &[0., 1., 2., 3., 4., 5.],
        );
        same(&counting(&[1, 2]).squeeze(0).unwrap(), &[2], &[0., 1.]);
        assert!(x.reshape(&[4]).is_err() && x.squeeze(0).is_err() && x.unsqueeze(3).is_err());
    }

    #[test]
    fn permute_moves_dimensions() {
        let x = counting(&[2, 3]);
        same(
            &x.transpose(0, 1).unwrap(),
            &[3, 2],
            &[0., 3., 1., 4., 2., 5.],
        );
        let y = counting(&[2, 3, 2]).permute(&[2, 0, 1]).unwrap();
        let expected = [0., 2., 4., 6., 8., 10., 1., 3., 5., 7., 9., 11.];
        same(&y, &[2, 2, 3], &expected);
        assert!(x.permute(&[0]).is_err());
        assert!(x.permute(&[0, 0]).is_err());
        assert!(x.permute(&[0, 2]).is_err());
    }

    #[test]
    fn narrow_takes_a_range() {
        let x = counting(&[2, 3]);
        same(&x.narrow(1, 1, 2).unwrap(), &[2, 2], &[1., 2., 4., 5.]);
        same(&x.narrow(0, 1, 1).unwrap(), &[1, 3], &[3., 4., 5.]);
        same(&x.narrow(1, 3, 0).unwrap(), &[2, 0], &[]);
        assert!(x.narrow(1, 2, 2).is_err());
        assert!(x.narrow(2, 0, 1).is_err());
        assert!(x.narrow(0, usize::MAX, 1).is_err());
    }

    #[test]
    fn broadcast_repeats() {
        let x = counting(&[2, 1]);
        same(
            &x.broadcast_to(&[2, 2]).unwrap(),
            &[2, 2],
            &[0., 0., 1., 1.],
        );
        same(
            &x.broadcast_to(&[2, 2, 1]).unwrap(),
            &[2, 2, 1],
            &[0., 1., 0., 1.],
        );
        assert!(x.broadcast_to(&[2]).is_err());
        assert!(x.broadcast_to(&[3, 2]).is_err());
    }

    #[test]
    fn cat_and_stack_put_side_by_side() {
        let (a, b) = (counting(&[2, 1]), counting(&[2, 2]));
        same(
            &Tensor::cat(&[&a, &b], 1).unwrap(),
            &[2, 3],
            &[0., 0., 1., 1., 2., 3.],
        );
        let c = counting(&[1, 2]);
        same(
            &Tensor::cat(&[&b, &c, &c], 0).unwrap(),
            &[4, 2],
            &[0., 1., 2., 3., 0., 1., 0., 1.],
        );
        same(
            &Tensor::stack(&[&a, &a], 2).unwrap(),
            &[2, 1, 2],
            &[0., 0., 1., 1.],
        );
        assert!(Tensor::cat(&[&a, &b], 0).is_err());
        assert!(Tensor::cat(&[&a, &counting(&[2])], 1).is_err());
        assert!(Tensor::cat(&[&a], 2).is_err());
        assert!(Tensor::cat(&[], 0).is_err());
        assert!(Tensor::cat(&[&a, &tensor(&[1u32, 2], &[2, 1])], 0).is_err());
    }
}
