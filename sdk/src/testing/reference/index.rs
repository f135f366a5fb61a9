//! Operations that pick and place by index.

use super::Arguments;
use super::array::{Array, count};
use super::shape::{place, visit};
use crate::{DType, Error, Op, Result};

pub fn run(op: Op, arguments: &Arguments) -> Result<Array> {
    let [dim] = arguments.ints()?;
    match op {
        Op::Gather | Op::IndexSelect => {
            let [x, index] = arguments.tensors()?;
            let dim = x.dim(dim)?;
            match op {
                Op::Gather => gather(x, dim, index),
                _ => pick(x, dim, index),
            }
        }
        Op::Scatter | Op::ScatterAdd | Op::IndexAdd => {
            let [x, index, src] = arguments.tensors()?;
            let dim = x.dim(dim)?;
            if src.dtype != x.dtype {
                return Err(Error::new("one element type is needed"));
            }
            if op != Op::Scatter {
                x.numbers()?;
            }
            match op {
                Op::Scatter => scatter(x, dim, index, src, |place, src| *place = src),
                Op::ScatterAdd => scatter(x, dim, index, src, |place, src| *place += src),
                _ => index_add(x, dim, index, src),
            }
        }
        _ => Err(Error::new("not an operation by index")),
    }
}

fn gather(x: &Array, dim: usize, index: &Array) -> Result<Array> {
    fits(&index.shape, &x.shape, dim, |index, x| index <= x)?;
    let (places, values) = (places(index, x.shape[dim])?, x.values());
    let mut places = places.into_iter();
    let mut out = Vec::with_capacity(places.len());
    visit(&index.shape, |at| {
        let mut from = at.to_vec();
        from[dim] = places.next().unwrap_or_default();
        out.push(values[place(&from, &x.shape)]);
    });
    Array::new(index.shape.clone(), x.dtype, out)
}

fn pick(x: &Array, dim: usize, index: &Array) -> Result<Array> {
    let places = flat_places(index, x.shape[dim])?;
    let mut shape = x.shape.clone();
    shape[dim] = places.len();
    let values = x.values();
    let mut out = Vec::with_capacity(count(&shape)?);
    visit(&shape, |at| {
        let mut from = at.to_vec();
        from[dim] = places[at[dim]];
        out.push(values[place(&from, &x.shape)]);
    });
    Array::new(shape, x.dtype, out)
}

/// Where an index names a place twice, the later one comes later.
fn scatter(
    x: &Array,
    dim: usize,
    index: &Array,
    src: &Array,
    put: impl Fn(&mut f64, f64),
) -> Result<Array> {
    if index.shape != src.shape {
        return Err(Error::new("index and source differ in shape"));
    }
    fits(&src.shape, &x.shape, dim, |src, x| src == x)?;
    let places = places(index, x.shape[dim])?;
    let mut moves = places.into_iter().zip(src.values());
    let mut out = x.values();
    visit(&src.shape, |at| {
        if let Some((index, value)) = moves.next() {
            let mut to = at.to_vec();
            to[dim] = index;
            put(&mut out[place(&to, &x.shape)], value);
        }
    });
    Array::new(x.shape.clone(), x.dtype, out)
}

fn index_add(x: &Array, dim: usize, index: &Array, src: &Array) -> Result<Array> {
    fits(&src.shape, &x.shape, dim, |src, x| src == x)?;
    let places = flat_places(index, x.shape[dim])?;
    if src.shape[dim] != places.len() {
        return Err(Error::new("as many slices as indices are needed"));
    }
    let (mut out, mut values) = (x.values(), src.values().into_iter());
    visit(&src.shape, |at| {
        let mut to = at.to_vec();
        to[dim] = places[at[dim]];
        out[place(&to, &x.shape)] += values.next().unwrap_or_default();
    });
    Array::new(x.shape.clone(), x.dtype, out)
}

/// Refuses a shape that does not fit another elsewhere than in `dim`.
fn fits(a: &[usize], b: &[usize], dim: usize, rule: fn(usize, usize) -> bool) -> Result<()> {
    let mut pairs = a.iter().zip(b).enumerate();
    let fits = pairs.all(|(i, (&a, &b))| i == dim || rule(a, b));
    match a.len() == b.len() && fits {
        true => Ok(()),
        false => Err(Error::new(format!(
            "{a:?} does not fit {b:?} elsewhere than in dimension {dim}"
        ))),
    }
}

/// Indices into a dimension of this length.
fn places(index: &Array, len: usize) -> Result<Vec<usize>> {
    if !matches!(index.dtype, DType::U32 | DType::I64) {
        return Err(Error::new("an index is U32 or I64"));
    }
    let place = |x: f64| match x >= 0.0 && x < len as f64 {
        true => Ok(x as usize),
        false => Err(Error::new(format!(
            "index {x} is outside a dimension of length {len}"
        ))),
    };
    index.values().into_iter().map(place).collect()
}

fn flat_places(index: &Array, len: usize) -> Result<Vec<usize>> {
    match index.shape.len() {
        1 => places(index, len),
        _ => Err(Error::new("an index of one dimension is needed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::testing::reference::message;
    use crate::testing::tensor;

    fn x() -> Tensor {
        tensor(&[0.0f32, 1.0, 2.0, 10.0, 11.0, 12.0], &[2, 3])
    }

    fn same(found: Result<Tensor>, shape: &[usize], values: &[f32]) {
        let found = found.unwrap();
        assert_eq!(found.shape(), shape);
        assert_eq!(found.to_vec::<f32>().unwrap(), values);
    }

    #[test]
    fn gather_picks_elements() {
        let index = tensor(&[2u32, 0, 1, 1], &[2, 2]);
        same(x().gather(1, &index), &[2, 2], &[2., 0., 11., 11.]);
        same(
            x().gather(0, &tensor(&[1u32, 0, 1], &[1, 3])),
            &[1, 3],
            &[10., 1., 12.],
        );
        assert!(message(x().gather(0, &index)).contains("index 2 is outside"));
        assert!(x().gather(1, &tensor(&[0u32], &[1])).is_err());
        assert!(x().gather(1, &tensor(&[0u32; 3], &[3, 1])).is_err());
        assert!(x().gather(1, &tensor(&[0.0f32; 2], &[2, 1])).is_err());
        assert!(x().gather(1, &tensor(&[-1i64; 2], &[2, 1])).is_err());
        assert!(x().gather(1, &tensor(&[u32::MAX; 2], &[2, 1])).is_err());
    }

    #[test]
    fn index_select_picks_slices() {
        let index = tensor(&[2u32, 0, 2], &[3]);
        same(
            x().index_select(1, &index),
            &[2, 3],
            &[2., 0., 2., 12., 10., 12.],
        );
        same(
            x().index_select(0, &tensor(&[1u32], &[1])),
            &[1, 3],
            &[10., 11., 12.],
        );
        assert!(
            x().index_select(1, &index.reshape(&[3, 1]).unwrap())
                .is_err()
        );
        assert!(x().index_select(0, &index).is_err());
    }

    #[test]
    fn scatter_replaces() {
        let (index, src) = (tensor(&[2u32, 2], &[2, 1]), tensor(&[7.0f32, 8.0], &[2, 1]));
        let before = x();
        same(
            before.scatter(1, &index, &src),
            &[2, 3],
            &[0., 1., 7., 10., 11., 8.],
        );
        same(Ok(before.clone()), &[2, 3], &[0., 1., 2., 10., 11., 12.]);
        assert!(before.scatter(0, &index, &src).is_err());
        assert!(before.scatter(1, &tensor(&[2u32], &[1, 1]), &src).is_err());
        assert!(before.scatter(1, &index, &index).is_err());
    }

    #[test]
    fn scatter_add_adds_up() {
        let index = tensor(&[0u32, 0, 2, 1], &[2, 2]);
        let src = tensor(&[1.0f32, 2.0, 4.0, 8.0], &[2, 2]);
        same(
            x().scatter_add(1, &index, &src),
            &[2, 3],
            &[3., 1., 2., 10., 19., 16.],
        );
        let truth = tensor(&[true], &[1]);
        assert!(
            truth
                .scatter_add(0, &tensor(&[0u32], &[1]), &truth)
                .is_err()
        );
    }

    #[test]
    fn index_add_adds_slices() {
        let src = tensor(&[1.0f32, 2.0, 4.0, 8.0], &[2, 2]);
        let index = tensor(&[1u32, 1], &[2]);
        same(
            x().index_add(1, &index, &src),
            &[2, 3],
            &[0., 4., 2., 10., 23., 12.],
        );
        let row = tensor(&[1.0f32; 3], &[1, 3]);
        same(
            x().index_add(0, &tensor(&[1u32], &[1]), &row),
            &[2, 3],
            &[0., 1., 2., 11., 12., 13.],
        );
        assert!(x().index_add(0, &index, &row).is_err());
        assert!(x().index_add(0, &index, &src).is_err());
    }
}
