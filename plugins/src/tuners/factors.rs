//! Parts of a weight as products of two thin matrices: its principal singular values and vectors, or the beginning of its QR
//! decomposition. Products with the weight are made where it is, what is done with thin matrices here, in f64.

use apus_sdk::{Error, Result, Tensor};

/// Columns that are looked for beside those that are wanted, where it goes on until they stay.
const MORE: usize = 8;
/// The most iterations there.
const MOST: usize = 200;
/// They stay if none of their singular values moves by more than this share of the greatest.
const STAYS: f64 = 1e-7;

/// Two factors `[O, R]` and `[R, I]`.
pub type Factors = (Tensor, Tensor);

/// The part of a weight `[O, I]` that its `rank` greatest singular values make, with the root of each in both factors. `random`
/// `[rank, I]` is where the search begins (Halko et al., <https://arxiv.org/abs/0909.4061>, algorithm 4.4, as `torch.svd_lowrank`):
/// with so many iterations, or until the values stay.
pub fn principal(
    weight: &Tensor,
    rank: usize,
    niter: Option<usize>,
    random: &Tensor,
) -> Result<Factors> {
    let (outputs, inputs) = sides(weight)?;
    let least = outputs.min(inputs);
    if rank > least {
        return Err(Error::new(format!(
            "the rank is {rank}, and a weight {:?} has {least} singular values: expected no more than those",
            weight.shape()
        )));
    }
    let back = weight.transpose(0, 1)?;
    let more = match niter {
        Some(_) => 0,
        None => MORE.min(least - rank),
    };
    let mut begin = random.transpose(0, 1)?;
    if more > 0 {
        let rest = weight.new_randn(&[inputs, more], 0.0, 1.0, (0, 0))?;
        begin = Tensor::cat(&[&begin, &rest], 1)?;
    }
    let mut q = orthonormal(&weight.matmul(&begin)?)?;
    let mut last: Option<Vec<f64>> = None;
    for _ in 0..niter.unwrap_or(MOST) {
        let across = orthonormal(&back.matmul(&q)?)?;
        q = orthonormal(&weight.matmul(&across)?)?;
        if niter.is_none() {
            let (values, _) = eigen(gram(&q.transpose(0, 1)?.matmul(weight)?)?);
            let values: Vec<f64> = values[..rank].iter().map(|v| v.max(0.0).sqrt()).collect();
            let stays = |last: &Vec<f64>| {
                let mut pairs = last.iter().zip(&values);
                pairs.all(|(before, now)| (before - now).abs() <= STAYS * values[0])
            };
            let is_found = last.as_ref().is_some_and(stays);
            last = Some(values);
            if is_found {
                break;
            }
        }
    }
    let small = q.transpose(0, 1)?.matmul(weight)?;
    let (values, vectors) = eigen(gram(&small)?);
    let width = vectors.len();
    // Columns of U are q times these, rows of V^T these times what is left, over the singular value.
    let (mut of_b, mut of_a) = (vec![0f32; width * rank], vec![0f32; rank * width]);
    for (at, value) in values.iter().take(rank).enumerate() {
        let root = value.max(0.0).sqrt().sqrt();
        for (row, of_row) in vectors.iter().enumerate() {
            of_b[row * rank + at] = (of_row[at] * root) as f32;
            if root > 0.0 {
                of_a[at * width + row] = (of_row[at] / root) as f32;
            }
        }
    }
    let b = q.matmul(&q.new_tensor(&of_b, &[width, rank])?)?;
    let a = q.new_tensor(&of_a, &[rank, width])?.matmul(&small)?;
    Ok((b, a))
}

/// The first `rank` columns of Q and rows of R of a weight's QR decomposition.
pub fn qr(weight: &Tensor, rank: usize) -> Result<Factors> {
    let (outputs, inputs) = sides(weight)?;
    let least = outputs.min(inputs);
    if rank > least {
        return Err(Error::new(format!(
            "the rank is {rank}, and Q of a weight {:?} has {least} columns: expected no more than those",
            weight.shape()
        )));
    }
    let q = orthonormal(&weight.narrow(1, 0, rank)?)?;
    let r = q.transpose(0, 1)?.matmul(weight)?;
    Ok((q, r))
}

fn sides(matrix: &Tensor) -> Result<(usize, usize)> {
    match matrix.shape() {
        &[rows, columns] => Ok((rows, columns)),
        other => Err(Error::new(format!("{other:?} is no matrix"))),
    }
}

/// The columns of a thin matrix made orthonormal, by Gram and Schmidt, twice. One that depends on those before it is zero.
fn orthonormal(matrix: &Tensor) -> Result<Tensor> {
    let (rows, count) = sides(matrix)?;
    let values = matrix.to_vec_f32()?;
    let mut columns: Vec<Vec<f64>> = (0..count)
        .map(|at| {
            values
                .iter()
                .skip(at)
                .step_by(count)
                .map(|&v| f64::from(v))
                .collect()
        })
        .collect();
    for at in 0..count {
        let (before, rest) = columns.split_at_mut(at);
        let own = &mut rest[0];
        let whole = dot(own, own).sqrt();
        for _ in 0..2 {
            for other in before.iter() {
                let along = dot(own, other);
                own.iter_mut().zip(other).for_each(|(v, o)| *v -= along * o);
            }
        }
        let left = dot(own, own).sqrt();
        let factor = if left > 1e-12 * whole {
            1.0 / left
        } else {
            0.0
        };
        own.iter_mut().for_each(|v| *v *= factor);
    }
    let mut flat = vec![0f32; rows * count];
    for (at, column) in columns.iter().enumerate() {
        let places = flat.iter_mut().skip(at).step_by(count);
        places.zip(column).for_each(|(to, v)| *to = *v as f32);
    }
    matrix.new_tensor(&flat, &[rows, count])
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The products of a matrix's rows with each other.
fn gram(matrix: &Tensor) -> Result<Vec<Vec<f64>>> {
    let (count, width) = sides(matrix)?;
    let values: Vec<f64> = matrix.to_vec_f32()?.into_iter().map(f64::from).collect();
    let row = |at: usize| &values[at * width..][..width];
    let products = (0..count).map(|a| (0..count).map(|b| dot(row(a), row(b))).collect());
    Ok(products.collect())
}

/// The eigenvalues of a symmetric matrix, the greatest first, and its eigenvectors as columns, by Jacobi's rotations.
fn eigen(mut matrix: Vec<Vec<f64>>) -> (Vec<f64>, Vec<Vec<f64>>) {
    let count = matrix.len();
    let mut vectors: Vec<Vec<f64>> = (0..count)
        .map(|row| {
            (0..count)
                .map(|column| f64::from(u8::from(row == column)))
                .collect()
        })
        .collect();
    for _ in 0..60 {
        let mut off = 0.0;
        let mut diagonal = 0.0;
        for (row, values) in matrix.iter().enumerate() {
            diagonal += values[row] * values[row];
            off += values[..row].iter().map(|v| v * v).sum::<f64>();
        }
        if off <= 1e-28 * diagonal {
            break;
        }
        for p in 0..count {
            for q in p + 1..count {
                rotate(&mut matrix, &mut vectors, (p, q));
            }
        }
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&a, &b| matrix[b][b].total_cmp(&matrix[a][a]));
    let values = order.iter().map(|&at| matrix[at][at]).collect();
    let sorted = |row: &Vec<f64>| order.iter().map(|&at| row[at]).collect();
    (values, vectors.iter().map(sorted).collect())
}

/// The rotation after which the element at these places, the first of which is above the second, is zero.
fn rotate(matrix: &mut [Vec<f64>], vectors: &mut [Vec<f64>], (p, q): (usize, usize)) {
    let element = matrix[p][q];
    if element == 0.0 {
        return;
    }
    let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * element);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    let turned = |a: f64, b: f64| (c * a - s * b, s * a + c * b);
    for row in matrix.iter_mut().chain(vectors.iter_mut()) {
        (row[p], row[q]) = turned(row[p], row[q]);
    }
    let (above, below) = matrix.split_at_mut(q);
    for (a, b) in above[p].iter_mut().zip(&mut below[0]) {
        (*a, *b) = turned(*a, *b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::tensor;

    /// Singular values 5, 2 and 1 with vectors that are turned by known angles.
    fn known() -> ([f64; 12], impl Fn(usize, usize, usize) -> f64) {
        let (c, s) = (0.6, 0.8);
        let left = [[c, s, 0.0, 0.0], [-s, c, 0.0, 0.0], [0.0, 0.0, c, s]];
        let right = [[s, 0.0, c], [-c, 0.0, s], [0.0, 1.0, 0.0]];
        let part = move |at: usize, row: usize, column: usize| {
            [5.0, 2.0, 1.0][at] * left[at][row] * right[at][column]
        };
        let mut weight = [0.0; 12];
        for (place, value) in weight.iter_mut().enumerate() {
            *value = (0..3).map(|at| part(at, place / 3, place % 3)).sum();
        }
        (weight, part)
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        tensor
            .to_vec_f32()
            .unwrap()
            .into_iter()
            .map(f64::from)
            .collect()
    }

    fn close(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-5, "{found} {expected}");
        }
    }

    #[test]
    fn principal_parts_are_those_of_the_greatest_singular_values() {
        let (weight, part) = known();
        let weight = tensor(&weight.map(|v| v as f32), &[4, 3]);
        let random = tensor(&[0.3f32, -0.2, 0.9, 1.1, 0.4, -0.7], &[2, 3]);
        for niter in [None, Some(16)] {
            let (b, a) = principal(&weight, 2, niter, &random).unwrap();
            assert_eq!((b.shape(), a.shape()), (&[4, 2][..], &[2, 3][..]));
            let product = values(&b.matmul(&a).unwrap());
            let expected: Vec<f64> = (0..12)
                .map(|at| part(0, at / 3, at % 3) + part(1, at / 3, at % 3))
                .collect();
            close(&product, &expected);
            // The roots of the singular values are in both.
            let rows = values(&a.sqr().unwrap().sum(1).unwrap());
            let columns = values(&b.sqr().unwrap().sum(0).unwrap());
            close(&rows, &[5.0, 2.0]);
            close(&columns, &[5.0, 2.0]);
        }
        let said = principal(&weight, 4, None, &random)
            .unwrap_err()
            .to_string();
        assert!(
            said.contains("the rank is 4") && said.contains("3 singular values"),
            "{said}"
        );
    }

    #[test]
    fn a_qr_decomposition_begins_with_the_first_columns() {
        let (weight, _) = known();
        let weight = tensor(&weight.map(|v| v as f32), &[4, 3]);
        let (q, r) = qr(&weight, 2).unwrap();
        let unit = values(&q.transpose(0, 1).unwrap().matmul(&q).unwrap());
        close(&unit, &[1.0, 0.0, 0.0, 1.0]);
        // R is triangular, and its first columns give those of the weight.
        assert!(values(&r)[3].abs() < 1e-6);
        let first = |t: &Tensor| values(&t.narrow(1, 0, 2).unwrap());
        close(&first(&q.matmul(&r).unwrap()), &first(&weight));
        let (q, r) = qr(&weight, 3).unwrap();
        close(&values(&q.matmul(&r).unwrap()), &values(&weight));
        assert!(qr(&weight, 4).is_err());
    }

    #[test]
    fn a_weight_of_lower_rank_has_zeros_for_the_rest() {
        let weight = tensor(&[2.0f32, 4.0, 1.0, 2.0], &[2, 2]);
        let random = tensor(&[0.3f32, -0.2, 0.9, 1.1], &[2, 2]);
        let (b, a) = principal(&weight, 2, None, &random).unwrap();
        close(&values(&b.matmul(&a).unwrap()), &[2.0, 4.0, 1.0, 2.0]);
        assert!(values(&a).iter().all(|v| v.is_finite()));
    }
}
