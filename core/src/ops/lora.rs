//! Low-rank updates (Hu et al., <https://arxiv.org/abs/2106.09685>): `y + scale * (x A^T) B^T`, plain and
//! grouped by expert. The product `B A` is never built.
//!
//! A and B are f32; the products are taken in the type of `x`.

use super::{grouped, linear};
use anyhow::Result;
use candle_core::Tensor;

/// A and B of one matrix, in f32: `a` `[R, I]`, `b` `[O, R]`; per expert `[E, R, I]` and `[E, R, O]`.
#[derive(Debug, Clone)]
pub struct Pair {
    /// From the input down to the rank.
    pub a: Tensor,
    /// From the rank up to the output.
    pub b: Tensor,
    /// `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    pub scale: f64,
}

/// Gradients of a pair.
#[derive(Debug, Clone)]
pub struct Grads {
    /// By the input, to be added to the base's.
    pub dx: Tensor,
    /// By `a`, f32, of its shape.
    pub da: Tensor,
    /// By `b`, f32, of its shape.
    pub db: Tensor,
}

/// `x` `[T, I]` to the update `scale * (x a^T) b^T` `[T, O]`, and `x a^T` `[T, R]` for the backward.
///
/// # Errors
/// Shapes do not fit.
pub fn forward(x: &Tensor, pair: &Pair) -> Result<(Tensor, Tensor)> {
    let a = pair.a.to_dtype(x.dtype())?;
    let b = (&pair.b * pair.scale)?.to_dtype(x.dtype())?;
    let xa = x.matmul(&a.t()?)?;
    Ok((xa.matmul(&b.t()?)?, xa))
}

/// Gradients from that of the output, `dy` `[T, O]`.
///
/// # Errors
/// Shapes do not fit.
pub fn backward(x: &Tensor, pair: &Pair, xa: &Tensor, dy: &Tensor) -> Result<Grads> {
    let a = pair.a.to_dtype(x.dtype())?;
    let b = (&pair.b * pair.scale)?.to_dtype(x.dtype())?;
    let dxa = dy.matmul(&b)?;
    Ok(Grads {
        dx: dxa.matmul(&a)?,
        da: linear::weight_grad(x, &dxa)?,
        db: (linear::weight_grad(xa, dy)? * pair.scale)?,
    })
}

/// [`forward`] with a pair per expert: `x` `[N, I]` grouped by `offsets`.
///
/// # Errors
/// Shapes do not fit.
pub fn grouped_forward(x: &Tensor, pair: &Pair, offsets: &[usize]) -> Result<(Tensor, Tensor)> {
    let a = pair.a.to_dtype(x.dtype())?;
    let b = (&pair.b * pair.scale)?.to_dtype(x.dtype())?;
    let xa = grouped::matmul(x, &a.transpose(1, 2)?, offsets)?;
    Ok((grouped::matmul(&xa, &b, offsets)?, xa))
}

/// [`backward`] with a pair per expert.
///
/// # Errors
/// Shapes do not fit.
pub fn grouped_backward(
    x: &Tensor,
    pair: &Pair,
    xa: &Tensor,
    dy: &Tensor,
    offsets: &[usize],
) -> Result<Grads> {
    let a = pair.a.to_dtype(x.dtype())?;
    let b = (&pair.b * pair.scale)?.to_dtype(x.dtype())?;
    let dxa = grouped::matmul(dy, &b.transpose(1, 2)?, offsets)?;
    Ok(Grads {
        dx: grouped::matmul(&dxa, &a, offsets)?,
        da: grouped::weight_grad(&dxa, x, offsets)?,
        db: (grouped::weight_grad(xa, dy, offsets)? * pair.scale)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{dot, finite_differences, random};

    #[test]
    fn gradients() {
        let (x, a, b) = (random(1, &[7, 6]), random(2, &[3, 6]), random(3, &[5, 3]));
        let dy = random(4, &[7, 5]);
        let f = |x: &Tensor, a: &Tensor, b: &Tensor| {
            dot(
                &forward(
                    x,
                    &Pair {
                        a: a.clone(),
                        b: b.clone(),
                        scale: 1.5,
                    },
                )
                .unwrap()
                .0,
                &dy,
            )
        };
        let pair = &Pair {
            a: a.clone(),
            b: b.clone(),
            scale: 1.5,
        };
        let (_, xa) = forward(&x, pair).unwrap();
        let grads = backward(&x, pair, &xa, &dy).unwrap();
        finite_differences(&x, &grads.dx, |x| f(x, &a, &b));
        finite_differences(&a, &grads.da, |a| f(&x, a, &b));
        finite_differences(&b, &grads.db, |b| f(&x, &a, b));
    }

    #[test]
    fn grouped_gradients() {
        let offsets = [0, 4, 4, 7];
        let (x, a, b) = (
            random(1, &[7, 6]),
            random(2, &[3, 2, 6]),
            random(3, &[3, 2, 5]),
        );
        let dy = random(4, &[7, 5]);
        let f = |x: &Tensor, a: &Tensor, b: &Tensor| {
            dot(
                &grouped_forward(
                    x,
                    &Pair {
                        a: a.clone(),
                        b: b.clone(),
                        scale: 0.7,
                    },
                    &offsets,
                )
                .unwrap()
                .0,
                &dy,
            )
        };
        let pair = &Pair {
            a: a.clone(),
            b: b.clone(),
            scale: 0.7,
        };
        let (_, xa) = grouped_forward(&x, pair, &offsets).unwrap();
        let grads = grouped_backward(&x, pair, &xa, &dy, &offsets).unwrap();
        finite_differences(&x, &grads.dx, |x| f(x, &a, &b));
        finite_differences(&a, &grads.da, |a| f(&x, a, &b));
        finite_differences(&b, &grads.db, |b| f(&x, &a, b));
    }
}
