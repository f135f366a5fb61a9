//! The leading singular vectors of a matrix, without a decomposition of the whole of it: a block of random vectors goes back and
//! forth through the matrix (Halko et al., <https://arxiv.org/abs/0909.4061>), where it lies, and is made orthonormal in between;
//! what it has come to span is decomposed exactly. Where the block is as wide as the matrix, all of it is exact.
//!
//! A singular vector has no sign of its own: its greatest element is made positive.

use super::columns::{Columns, add, decompose, orthonormalise, turn};
use apus_sdk::{Error, Result, Tensor};

/// Vectors beside those that are wanted, and how often they go back and forth.
const MORE: usize = 16;
const TIMES: usize = 4;

/// The seed of the first block.
const SEED: u64 = 0x6a10;

/// The singular vectors of each matrix of a stack, greatest values first.
pub(super) struct Leading(Vec<Vectors>);

/// Those of one matrix.
struct Vectors {
    left: Columns,
    right: Columns,
}

/// What a gradient is projected on.
pub(super) struct Basis {
    /// Left singular vectors, as columns.
    pub left: Option<Tensor>,
    /// Right ones, as rows.
    pub right: Option<Tensor>,
}

impl Basis {
    /// The gradient in the space of the vectors.
    pub fn project(&self, grad: &Tensor) -> Result<Tensor> {
        let mut low = grad.clone();
        if let Some(left) = &self.left {
            low = turned(left)?.matmul(&low)?;
        }
        if let Some(right) = &self.right {
            low = low.matmul(&turned(right)?)?;
        }
        Ok(low)
    }

    /// The way back.
    pub fn project_back(&self, low: &Tensor) -> Result<Tensor> {
        let mut whole = low.clone();
        if let Some(left) = &self.left {
            whole = left.matmul(&whole)?;
        }
        if let Some(right) = &self.right {
            whole = whole.matmul(right)?;
        }
        Ok(whole)
    }
}

/// Rows and columns swapped.
fn turned(matrix: &Tensor) -> Result<Tensor> {
    let sides = matrix.shape().len();
    matrix.transpose(sides - 2, sides - 1)
}

impl Leading {
    /// The first `rank` of a matrix, or of each matrix of a stack.
    pub fn of(matrices: &Tensor, rank: usize) -> Result<Self> {
        let found = match *matrices.shape() {
            [_, _] => vec![vectors(matrices, rank)?],
            [count, rows, columns] => (0..count)
                .map(|at| {
                    let one = matrices.narrow(0, at, 1)?;
                    vectors(&one.reshape(&[rows, columns])?, rank)
                })
                .collect::<Result<_>>()?,
            ref other => return Err(Error::new(format!("{other:?} is no matrix"))),
        };
        Ok(Self(found))
    }

    /// The left ones as columns, where `beside` is and with as many dimensions.
    pub fn left(&self, beside: &Tensor) -> Result<Tensor> {
        let side = |vectors: &Vectors| by_rows(&vectors.left);
        self.stacked(beside, side, |rank, rows, _| [rows, rank])
    }

    /// The right ones as rows.
    pub fn right(&self, beside: &Tensor) -> Result<Tensor> {
        let side = |vectors: &Vectors| vectors.right.concat();
        self.stacked(beside, side, |rank, _, columns| [rank, columns])
    }

    fn stacked(
        &self,
        beside: &Tensor,
        side: impl Fn(&Vectors) -> Vec<f64>,
        shape: impl Fn(usize, usize, usize) -> [usize; 2],
    ) -> Result<Tensor> {
        let shape_of = |rows, columns| {
            let rank = self.0.first().map_or(0, |vectors| vectors.left.len());
            shape(rank, rows, columns)
        };
        let shape = match *beside.shape() {
            [count, rows, columns] => {
                let [first, second] = shape_of(rows, columns);
                vec![count, first, second]
            }
            [rows, columns] => shape_of(rows, columns).to_vec(),
            ref other => return Err(Error::new(format!("{other:?} is no matrix"))),
        };
        let elements = self.0.iter().flat_map(side).map(|x| x as f32);
        beside.new_tensor(&elements.collect::<Vec<f32>>(), &shape)
    }
}

/// The first `rank` singular vectors of a matrix.
fn vectors(matrix: &Tensor, rank: usize) -> Result<Vectors> {
    let [rows, columns] = *matrix.shape() else {
        return Err(Error::new(format!("{:?} is no matrix", matrix.shape())));
    };
    let shorter = rows.min(columns);
    let rank = rank.min(shorter);
    let width = (rank + MORE).min(shorter);
    let across = turned(matrix)?;
    let through = |matrix: &Tensor, vectors: &Columns| {
        let length = vectors.first().map_or(0, Vec::len);
        let elements: Vec<f32> = by_rows(vectors).into_iter().map(|x| x as f32).collect();
        let vectors = matrix.new_tensor(&elements, &[length, width])?;
        columns_of(&matrix.matmul(&vectors)?)
    };
    let start = matrix.new_randn(&[columns, width], 0.0, 1.0, (SEED, 0))?;
    let mut left = columns_of(&matrix.matmul(&start)?)?;
    orthonormalise(&mut left);
    let times = if width == shorter { 0 } else { TIMES };
    for _ in 0..times {
        let mut right = through(&across, &left)?;
        orthonormalise(&mut right);
        left = through(matrix, &right)?;
        orthonormalise(&mut left);
    }
    // The matrix in the span of the left ones is `left (right triangle)^T`.
    let mut right = through(&across, &left)?;
    let triangle = orthonormalise(&mut right);
    let (outer, inner) = decompose(turn(&triangle));
    Ok(Vectors {
        left: combined(&left, &outer[..rank]),
        right: combined(&right, &inner[..rank]),
    })
}

/// Columns of a tensor.
fn columns_of(matrix: &Tensor) -> Result<Columns> {
    let width = matrix.shape()[1];
    let elements = matrix.to_vec::<f32>()?;
    let column = |at: usize| elements.iter().skip(at).step_by(width);
    Ok((0..width)
        .map(|at| column(at).map(|&x| f64::from(x)).collect())
        .collect())
}

/// The elements of columns, row by row.
fn by_rows(columns: &[Vec<f64>]) -> Vec<f64> {
    turn(columns).concat()
}

/// Sums of columns with these weights, their greatest element positive.
fn combined(columns: &[Vec<f64>], weights: &[Vec<f64>]) -> Columns {
    let one = |weights: &Vec<f64>| {
        let mut sum = vec![0.0; columns.first().map_or(0, Vec::len)];
        for (column, weight) in columns.iter().zip(weights) {
            add(&mut sum, column, *weight);
        }
        let greatest = sum
            .iter()
            .copied()
            .max_by(|a, b| a.abs().total_cmp(&b.abs()));
        if greatest.is_some_and(|greatest| greatest < 0.0) {
            sum.iter_mut().for_each(|x| *x = -*x);
        }
        sum
    };
    weights.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::super::columns::dot;
    use super::*;
    use apus_sdk::testing::tensor;

    /// `sum_i values[i] u_i v_i^T` of orthonormal vectors that are not those of the coordinates.
    fn made(rows: usize, columns: usize, values: &[f64]) -> (Vec<f32>, Columns, Columns) {
        let some = |length: usize, phase: f64| {
            let column = |at: usize| {
                (0..length)
                    .map(|i| ((i * i + 3 * at * i) as f64 * 0.7 + phase + at as f64).sin())
                    .collect()
            };
            let mut columns: Columns = (0..values.len()).map(column).collect();
            orthonormalise(&mut columns);
            columns
        };
        let (left, right) = (some(rows, 0.1), some(columns, 2.3));
        let mut elements = vec![0.0f64; rows * columns];
        for ((u, v), value) in left.iter().zip(&right).zip(values) {
            for (i, x) in u.iter().enumerate() {
                add(&mut elements[i * columns..(i + 1) * columns], v, value * x);
            }
        }
        let elements = elements.into_iter().map(|x| x as f32).collect();
        (elements, left, right)
    }

    #[track_caller]
    fn are_orthonormal(columns: &[Vec<f64>]) {
        for (i, one) in columns.iter().enumerate() {
            for (j, other) in columns.iter().enumerate() {
                let gap = dot(one, other) - f64::from(u8::from(i == j));
                assert!(gap.abs() < 1e-9, "{i} {j}: {gap}");
            }
        }
    }

    #[test]
    fn vectors_of_a_known_matrix() {
        let slow: Vec<f64> = (0..40).map(|i| 0.8f64.powi(i)).collect();
        for (rows, columns, values) in [
            (4, 6, &[3.0, 2.0, 1.0, 0.5][..]),
            (6, 4, &[3.0, 2.0, 1.0, 0.5]),
            (48, 60, &slow),
            (60, 48, &slow),
            (30, 40, &[5.0, 1.0]),
        ] {
            let (elements, left, right) = made(rows, columns, values);
            let matrix = tensor(&elements, &[rows, columns]);
            let rank = 2;
            let found = vectors(&matrix, rank).unwrap();
            for (found, expected) in [(found.left, left), (found.right, right)] {
                are_orthonormal(&found);
                for (found, expected) in found.iter().zip(&expected) {
                    let cosine = dot(found, expected).abs();
                    assert!(cosine > 1.0 - 1e-9, "{rows} x {columns}: {cosine}");
                    let greatest = found
                        .iter()
                        .copied()
                        .max_by(|a, b| a.abs().total_cmp(&b.abs()));
                    assert!(greatest.unwrap() > 0.0);
                }
            }
        }
    }

    #[test]
    fn a_matrix_of_little_rank_has_a_whole_basis() {
        let (elements, ..) = made(30, 40, &[5.0, 1.0]);
        for elements in [elements, vec![0.0; 1200]] {
            let found = vectors(&tensor(&elements, &[30, 40]), 7).unwrap();
            assert_eq!((found.left.len(), found.right.len()), (7, 7));
            are_orthonormal(&found.left);
            are_orthonormal(&found.right);
        }
    }

    #[test]
    fn matrices_of_a_stack_are_decomposed_one_by_one() {
        let (one, ..) = made(4, 5, &[3.0, 1.0]);
        let (other, ..) = made(4, 5, &[1.0, 2.0]);
        let stack = tensor(&[one.clone(), other.clone()].concat(), &[2, 4, 5]);
        let both = Leading::of(&stack, 2).unwrap();
        let (left, right) = (both.left(&stack).unwrap(), both.right(&stack).unwrap());
        assert_eq!(
            (left.shape(), right.shape()),
            (&[2, 4, 2][..], &[2, 2, 5][..])
        );
        for (at, elements) in [one, other].into_iter().enumerate() {
            let matrix = tensor(&elements, &[4, 5]);
            let vectors = Leading::of(&matrix, 2).unwrap();
            let part = |stack: &Tensor| {
                let part = stack.narrow(0, at, 1).unwrap();
                part.to_vec::<f32>().unwrap()
            };
            let alone = |tensor: Result<Tensor>| tensor.unwrap().to_vec::<f32>().unwrap();
            assert_eq!(part(&left), alone(vectors.left(&matrix)));
            assert_eq!(part(&right), alone(vectors.right(&matrix)));
        }
        // Both sides together give a matrix of rank 2 back.
        let basis = Basis {
            left: Some(left),
            right: Some(right),
        };
        let back = basis.project_back(&basis.project(&stack).unwrap()).unwrap();
        let gaps = back.sub(&stack).unwrap().to_vec::<f32>().unwrap();
        assert!(gaps.iter().all(|gap| gap.abs() < 1e-5), "{gaps:?}");
    }
}
