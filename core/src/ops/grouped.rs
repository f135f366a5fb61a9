//! Matrix products of rows grouped by expert: each expert's rows with its own matrix.

use super::host;
use super::wide::axpy;
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

/// `x` `[N, I]`, rows `offsets[e]..offsets[e + 1]` times `w[e]`, with `w` `[E, I, O]` (also as the
/// transposed view of `[E, O, I]`), to `[N, O]`. Experts without rows cost nothing.
///
/// # Errors
/// Shapes do not fit.
pub fn matmul(x: &Tensor, w: &Tensor, offsets: &[usize]) -> Result<Tensor> {
    let ((n, i), (experts, wi, o)) = (x.dims2()?, w.dims3()?);
    ensure!(
        i == wi && offsets.len() == experts + 1 && offsets.last() == Some(&n),
        "grouped matmul: rows {:?}, matrices {:?} and {} groups do not fit",
        x.dims(),
        w.dims(),
        offsets.len() - 1
    );
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device() {
        return super::cuda::grouped::matmul(x, w, offsets, cuda);
    }
    let mut parts = Vec::with_capacity(experts);
    for (e, rows) in filled(offsets) {
        parts.push(x.narrow(0, rows.start, rows.len())?.matmul(&w.get(e)?)?);
    }
    if parts.is_empty() {
        return Ok(Tensor::zeros((0, o), x.dtype(), x.device())?);
    }
    Ok(Tensor::cat(&parts, 0)?)
}

/// Gradient by the matrices, `[E, I, O]` f32: each expert's `x^T dy`.
///
/// # Errors
/// Shapes do not fit.
pub fn weight_grad(x: &Tensor, dy: &Tensor, offsets: &[usize]) -> Result<Tensor> {
    let ((_, i), (_, o)) = (x.dims2()?, dy.dims2()?);
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = x.device() {
        return super::cuda::grouped::weight_grad(x, dy, offsets, cuda);
    }
    let zeros = Tensor::zeros((i, o), DType::F32, x.device())?;
    let mut parts = vec![zeros; offsets.len() - 1];
    for (e, rows) in filled(offsets) {
        let (x, dy) = (
            x.narrow(0, rows.start, rows.len())?,
            dy.narrow(0, rows.start, rows.len())?,
        );
        parts[e] = x.t()?.matmul(&dy)?;
    }
    Ok(Tensor::stack(&parts, 0)?)
}

/// Adds each expert's bias `[E, O]` to its rows of `y` `[N, O]`.
///
/// # Errors
/// Shapes do not fit.
pub fn add_bias(y: Tensor, bias: &Tensor, offsets: &[usize]) -> Result<Tensor> {
    let (n, o) = y.dims2()?;
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = y.device().clone() {
        return super::cuda::grouped::add_bias(y, bias, offsets, &cuda);
    }
    host::with2(&y, bias, |y, bias| {
        let mut out = y.to_vec();
        for (e, rows) in filled(offsets) {
            for row in out[rows.start * o..rows.end * o].chunks_mut(o) {
                axpy(row, 1.0, &bias[e * o..(e + 1) * o]);
            }
        }
        Ok(host::f32s(out, (n, o)))
    })
}

/// Gradient by the biases, `[E, O]` f32: the sum of each expert's rows.
///
/// # Errors
/// Shapes do not fit.
pub fn bias_grad(dy: &Tensor, offsets: &[usize]) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = dy.device() {
        return super::cuda::grouped::bias_grad(dy, offsets, cuda);
    }
    let (_, o) = dy.dims2()?;
    let experts = offsets.len() - 1;
    host::with(dy, |dy: &[f32]| {
        let mut out = vec![0f32; experts * o];
        for (e, rows) in filled(offsets) {
            let sum = &mut out[e * o..(e + 1) * o];
            for row in dy[rows.start * o..rows.end * o].chunks(o) {
                axpy(sum, 1.0, row);
            }
        }
        Ok(host::f32s(out, (experts, o)))
    })
}

/// The experts that have rows, with them.
pub fn filled(offsets: &[usize]) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> + '_ {
    offsets
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| pair[0] < pair[1])
        .map(|(e, pair)| (e, pair[0]..pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, dot, finite_differences, random, values};

    const OFFSETS: [usize; 5] = [0, 3, 3, 4, 9];

    #[test]
    fn each_expert_has_its_own_matrix() {
        let (x, w, b) = (
            random(1, &[9, 5]),
            random(2, &[4, 5, 6]),
            random(3, &[4, 6]),
        );
        let (xs, ws, bs) = (values(&x), values(&w), values(&b));
        let expert = |n: usize| OFFSETS.iter().rposition(|&o| o <= n && o < 9).unwrap();
        let mut expected = Vec::new();
        for n in 0..9 {
            let e = if n == 3 { 2 } else { expert(n) };
            for o in 0..6 {
                let sum: f64 = (0..5)
                    .map(|i| xs[n * 5 + i] * ws[(e * 5 + i) * 6 + o])
                    .sum();
                expected.push(sum + bs[e * 6 + o]);
            }
        }
        let plain = add_bias(matmul(&x, &w, &OFFSETS).unwrap(), &b, &OFFSETS).unwrap();
        close(&plain, &expected, 1e-6);
        let turned = w
            .transpose(1, 2)
            .unwrap()
            .contiguous()
            .unwrap()
            .transpose(1, 2)
            .unwrap();
        let turned = add_bias(matmul(&x, &turned, &OFFSETS).unwrap(), &b, &OFFSETS).unwrap();
        close(&turned, &expected, 1e-6);
    }

    #[test]
    fn gradients() {
        let (x, w, dy) = (
            random(1, &[9, 5]),
            random(2, &[4, 5, 6]),
            random(3, &[9, 6]),
        );
        let y = |x: &Tensor, w: &Tensor| dot(&matmul(x, w, &OFFSETS).unwrap(), &dy);
        let dx = matmul(&dy, &w.transpose(1, 2).unwrap(), &OFFSETS).unwrap();
        finite_differences(&x, &dx, |x| y(x, &w));
        finite_differences(&w, &weight_grad(&x, &dy, &OFFSETS).unwrap(), |w| y(&x, w));
        let b = random(4, &[4, 6]);
        finite_differences(&b, &bias_grad(&dy, &OFFSETS).unwrap(), |b| {
            dot(
                &add_bias(
                    x.zeros_like().unwrap().matmul(&w.get(0).unwrap()).unwrap(),
                    b,
                    &OFFSETS,
                )
                .unwrap(),
                &dy,
            )
        });
    }
}
