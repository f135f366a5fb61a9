//! Columns of numbers, made orthonormal and decomposed, in double precision and in host memory.

/// Columns of a matrix.
pub(super) type Columns = Vec<Vec<f64>>;

/// Rows for columns.
pub(super) fn turn(columns: &[Vec<f64>]) -> Columns {
    let length = columns.first().map_or(0, Vec::len);
    let row = |at: usize| columns.iter().map(|column| column[at]).collect();
    (0..length).map(row).collect()
}

/// The sum of the products of their elements.
pub(super) fn dot(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(a, b)| a * b).sum()
}

/// Adds `factor` times a vector.
pub(super) fn add(to: &mut [f64], vector: &[f64], factor: f64) {
    to.iter_mut()
        .zip(vector)
        .for_each(|(x, y)| *x += factor * y);
}

/// Makes columns orthonormal, one after another (Gram-Schmidt, twice each), and gives the triangle that makes them what they
/// were. A column that those before it span becomes one that they do not.
pub(super) fn orthonormalise(columns: &mut [Vec<f64>]) -> Columns {
    let mut triangle = vec![vec![0.0; columns.len()]; columns.len()];
    for (at, shares) in triangle.iter_mut().enumerate() {
        let (before, rest) = columns.split_at_mut(at);
        let column = &mut rest[0];
        let was = dot(column, column).sqrt();
        project_out(column, before, shares);
        let norm = dot(column, column).sqrt();
        if norm > 1e-12 * was {
            shares[at] = norm;
            column.iter_mut().for_each(|x| *x /= norm);
            continue;
        }
        for place in 0..column.len() {
            column.fill(0.0);
            column[place] = 1.0;
            project_out(column, before, &mut vec![0.0; at]);
            let norm = dot(column, column).sqrt();
            // The squares of these norms sum up to more than 1 over all places, or there is no such column.
            if norm * norm * column.len() as f64 > 0.5 {
                column.iter_mut().for_each(|x| *x /= norm);
                break;
            }
        }
    }
    triangle
}

/// Takes out of a vector what orthonormal ones span of it, and adds their shares up.
fn project_out(vector: &mut [f64], orthonormal: &[Vec<f64>], shares: &mut [f64]) {
    for _ in 0..2 {
        for (other, sum) in orthonormal.iter().zip(&mut *shares) {
            let share = dot(other, vector);
            add(vector, other, -share);
            *sum += share;
        }
    }
}

/// The singular vectors of a small square matrix, left and right, greatest values first, by one-sided Jacobi rotations.
pub(super) fn decompose(mut columns: Columns) -> (Columns, Columns) {
    const SWEEPS: usize = 60;
    let width = columns.len();
    let unit = |at: usize| (0..width).map(|i| f64::from(u8::from(i == at))).collect();
    let mut right: Columns = (0..width).map(unit).collect();
    for _ in 0..SWEEPS {
        let mut is_done = true;
        for one in 0..width {
            for other in one + 1..width {
                let [a, b] = [one, other].map(|at| dot(&columns[at], &columns[at]));
                let both = dot(&columns[one], &columns[other]);
                if both.abs() <= 1e-15 * (a * b).sqrt() {
                    continue;
                }
                is_done = false;
                let zeta = (b - a) / (2.0 * both);
                let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                for of in [&mut columns, &mut right] {
                    rotate(of, one, other, cosine, cosine * tangent);
                }
            }
        }
        if is_done {
            break;
        }
    }
    let size = |column: &Vec<f64>| dot(column, column);
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&a, &b| size(&columns[b]).total_cmp(&size(&columns[a])));
    let mut left: Columns = order.iter().map(|&at| columns[at].clone()).collect();
    // They are orthogonal: what this does is to scale them, and to complete those of value zero.
    orthonormalise(&mut left);
    let right = order.into_iter().map(|at| right[at].clone()).collect();
    (left, right)
}

fn rotate(columns: &mut [Vec<f64>], one: usize, other: usize, cosine: f64, sine: f64) {
    let (before, rest) = columns.split_at_mut(other);
    for (a, b) in before[one].iter_mut().zip(&mut rest[0]) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}
