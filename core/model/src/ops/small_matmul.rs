//! Products of small matrices inside one task, where a call of the library for large matrices costs more than the work.

use super::simd::{LANES, simd};

/// A view of a matrix in a slice; both strides count elements.
#[derive(Debug, Clone, Copy)]
pub struct MatrixView<'a> {
    /// The slice, from the first element of the matrix on.
    pub data: &'a [f32],
    /// The stride from one row to the next.
    pub row: usize,
    /// The stride from one column to the next.
    pub column: usize,
}

impl<'a> MatrixView<'a> {
    /// A matrix whose rows are contiguous.
    pub fn rows(data: &'a [f32], row: usize) -> Self {
        Self {
            data,
            row,
            column: 1,
        }
    }

    /// The part of the matrix from an element on, to the right and below.
    pub fn from(self, row: usize, column: usize) -> Self {
        Self {
            data: &self.data[row * self.row + column * self.column..],
            ..self
        }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self {
            row: self.column,
            column: self.row,
            ..self
        }
    }
}

/// The number of rows of `c` that are computed together.
const ROWS: usize = 4;

simd! {
    /// `c [m, n] += a [m, k] b [k, n]`: rows of `b` are contiguous, and so are those of `c`, `stride` apart. Each
    /// element is a sum over `k` in order, added to `c` at the end.
    pub fn add_product(a: MatrixView<'_>, b: MatrixView<'_>, c: &mut [f32], stride: usize, size: [usize; 3]) {
        let [m, n, k] = size;
        for column in (0..n).step_by(LANES) {
            let width = LANES.min(n - column);
            for row in (0..m).step_by(ROWS) {
                let sums = if width == LANES {
                    tile(a, row, m, k, |p| {
                        let row = b.data[p * b.row + column..].first_chunk();
                        row.copied().unwrap_or([0.0; LANES])
                    })
                } else {
                    tile(a, row, m, k, |p| {
                        let mut padded = [0f32; LANES];
                        padded[..width].copy_from_slice(&b.data[p * b.row + column..][..width]);
                        padded
                    })
                };
                for (r, sums) in sums.iter().enumerate().take(m - row) {
                    let start = (row + r) * stride + column;
                    for (c, sum) in c[start..start + width].iter_mut().zip(sums) {
                        *c += sum;
                    }
                }
            }
        }
    }
}

/// Rows `row..row + 4` of a product, the last row again where there are fewer; `load` reads a row of the right side.
/// Each row of sums is a variable of its own, so that it stays in registers.
#[inline(always)]
fn tile(
    a: MatrixView<'_>,
    row: usize,
    m: usize,
    k: usize,
    load: impl Fn(usize) -> [f32; LANES],
) -> [[f32; LANES]; ROWS] {
    let [r0, r1, r2, r3] = [0, 1, 2, 3].map(|r| (row + r).min(m - 1) * a.row);
    let (mut s0, mut s1, mut s2, mut s3) =
        ([0f32; LANES], [0f32; LANES], [0f32; LANES], [0f32; LANES]);
    for p in 0..k {
        let (b, p) = (load(p), p * a.column);
        add(&mut s0, a.data[r0 + p], &b);
        add(&mut s1, a.data[r1 + p], &b);
        add(&mut s2, a.data[r2 + p], &b);
        add(&mut s3, a.data[r3 + p], &b);
    }
    [s0, s1, s2, s3]
}

#[inline(always)]
fn add(sums: &mut [f32; LANES], a: f32, b: &[f32; LANES]) {
    for l in 0..LANES {
        sums[l] += a * b[l];
    }
}

/// The transpose of `x` `[rows, columns]`, with its rows padded by zeros to `stride`.
pub fn transposed(x: MatrixView<'_>, rows: usize, columns: usize, stride: usize) -> Vec<f32> {
    let mut out = vec![0f32; columns * stride];
    for r in 0..rows {
        for (c, x) in x.data[r * x.row..][..columns].iter().enumerate() {
            out[c * stride + r] = *x;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{random, values};

    #[test]
    fn products_of_odd_sizes() {
        for [m, n, k] in [[1, 1, 1], [5, 19, 7], [4, 16, 3], [9, 33, 1], [3, 2, 0]] {
            let (a, b) = (random(1, &[m, k.max(1)]), random(2, &[k.max(1), n]));
            let f32s = |x| values(x).into_iter().map(|x| x as f32).collect::<Vec<_>>();
            let (a, b) = (f32s(&a), f32s(&b));
            let (left, right) = (MatrixView::rows(&a, k), MatrixView::rows(&b, n));
            let a_t = transposed(left, m, k, m + 3);
            for left in [left, MatrixView::rows(&a_t, m + 3).t()] {
                let mut c = vec![1f32; m * (n + 2)];
                add_product(left, right, &mut c, n + 2, [m, n, k]);
                for i in 0..m {
                    for j in 0..n {
                        let product: f32 = (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum();
                        assert!((c[i * (n + 2) + j] - 1.0 - product).abs() < 1e-5);
                    }
                    assert_eq!(c[i * (n + 2) + n..][..2], [1.0, 1.0]);
                }
            }
        }
    }
}
