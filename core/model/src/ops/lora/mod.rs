//! Low-rank updates (Hu et al., <https://arxiv.org/abs/2106.09685>): `y + scale * (x A^T) B^T`. The product `B A` is
//! never built.
//!
//! A and B are f32; the products are taken in the type of `x`. This file has the update of one matrix by itself, which
//! dropout and DoRA need; [`pack`] has updates that are summed together with the product of the matrix itself, [`rows`] updates of
//! which each row has another.

mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
pub mod pack;
pub mod rows;

pub use pack::{Factors, Pack, PackTape, PackedRange, Strides};

pub use rows::{NO_UPDATE, RowFactors, add_rows};

use super::linear;
use crate::profile::{self, OpGroup};
use anyhow::Result;
use candle_core::Tensor;

/// A and B of one matrix, in f32: `a` `[R, I]`, `b` `[O, R]`.
#[derive(Debug, Clone)]
pub struct Pair {
    /// From the input down to the rank.
    pub a: Tensor,
    /// From the rank up to the output.
    pub b: Tensor,
    /// `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    pub scale: f64,
}

/// The gradients of a pair.
#[derive(Debug, Clone)]
pub struct Grads {
    /// The gradient by the input, to be added to that of the matrix itself.
    pub dx: Tensor,
    /// The gradient by `a`, f32.
    pub da: Tensor,
    /// The gradient by `b`, f32.
    pub db: Tensor,
}

/// Returns for `x` `[T, I]` the update `scale * (x a^T) b^T` `[T, O]`, and `x a^T` `[T, R]` for the backward pass.
pub fn forward(x: &Tensor, pair: &Pair) -> Result<(Tensor, Tensor)> {
    let _span = profile::whole(OpGroup::Lora);
    let a = pair.a.to_dtype(x.dtype())?;
    let b = (&pair.b * pair.scale)?.to_dtype(x.dtype())?;
    let xa = x.matmul(&a.t()?)?;
    Ok((xa.matmul(&b.t()?)?, xa))
}

/// Returns the gradients from that of the output, `dy` `[T, O]`.
pub fn backward(x: &Tensor, pair: &Pair, xa: &Tensor, dy: &Tensor) -> Result<Grads> {
    let (dx, dxa) = input_grad(pair, dy)?;
    Ok(Grads {
        dx,
        da: a_grad(x, &dxa)?,
        db: b_grad(xa, pair, dy)?,
    })
}

/// The gradient by the input from that of the output, and that by `x a^T`.
pub fn input_grad(pair: &Pair, dy: &Tensor) -> Result<(Tensor, Tensor)> {
    let _span = profile::whole(OpGroup::Lora);
    let a = pair.a.to_dtype(dy.dtype())?;
    let b = (&pair.b * pair.scale)?.to_dtype(dy.dtype())?;
    let dxa = dy.matmul(&b)?;
    Ok((dxa.matmul(&a)?, dxa))
}

/// The gradient by `a`, f32.
pub fn a_grad(x: &Tensor, dxa: &Tensor) -> Result<Tensor> {
    let _span = profile::whole(OpGroup::Lora);
    linear::weight_grad(x, dxa)
}

/// The gradient by `b`, f32.
pub fn b_grad(xa: &Tensor, pair: &Pair, dy: &Tensor) -> Result<Tensor> {
    let _span = profile::whole(OpGroup::Lora);
    Ok((linear::weight_grad(xa, dy)? * pair.scale)?)
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
}
