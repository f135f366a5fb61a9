//! Operations on each element.

use super::{Arguments, exactly};
use anyhow::{Result, bail, ensure};
use apus_sdk::Op;
use candle_core::Tensor;

pub(super) fn unary(op: Op, x: &Tensor) -> Result<Tensor> {
    ensure!(
        op == Op::Not || x.dtype().is_float(),
        "it takes floats; cast the tensor first"
    );
    Ok(match op {
        Op::Neg => x.neg()?,
        Op::Exp => x.exp()?,
        Op::Log => x.log()?,
        Op::Sqrt => x.sqrt()?,
        Op::Sqr => x.sqr()?,
        Op::Abs => x.abs()?,
        Op::Sign => x.sign()?,
        Op::Sin => x.sin()?,
        Op::Cos => x.cos()?,
        Op::Tanh => x.tanh()?,
        // By tanh, which neither overflows nor lacks a gradient.
        Op::Sigmoid => x.affine(0.5, 0.0)?.tanh()?.affine(0.5, 0.5)?,
        Op::Erf => x.erf()?,
        Op::Relu => x.relu()?,
        Op::Recip => x.recip()?,
        Op::Floor => x.floor()?,
        Op::Ceil => x.ceil()?,
        Op::Round => x.round()?,
        Op::Not => x.eq(0u8)?,
        _ => bail!("not an operation on one tensor"),
    })
}

pub(super) fn several(op: Op, arguments: &Arguments) -> Result<Tensor> {
    if op == Op::Where {
        let [cond, a, b] = arguments.tensors()?;
        return choose(cond, a, b);
    }
    let [a, b] = arguments.tensors()?;
    Ok(match op {
        Op::Add => a.broadcast_add(b)?,
        Op::Sub => a.broadcast_sub(b)?,
        Op::Mul => a.broadcast_mul(b)?,
        Op::Div => a.broadcast_div(b)?,
        Op::Maximum | Op::Or => a.broadcast_maximum(b)?,
        Op::Minimum | Op::And => a.broadcast_minimum(b)?,
        Op::Eq => a.broadcast_eq(b)?,
        Op::Ne => a.broadcast_ne(b)?,
        Op::Lt => a.broadcast_lt(b)?,
        Op::Le => a.broadcast_le(b)?,
        Op::Gt => a.broadcast_gt(b)?,
        Op::Ge => a.broadcast_ge(b)?,
        Op::Matmul => a.broadcast_matmul(b)?,
        _ => bail!("not an operation on two tensors"),
    })
}

fn choose(cond: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let shape = cond
        .shape()
        .broadcast_shape_binary_op(a.shape(), "where")?
        .broadcast_shape_binary_op(b.shape(), "where")?;
    Ok(cond
        .broadcast_as(&shape)?
        .where_cond(&a.broadcast_as(&shape)?, &b.broadcast_as(&shape)?)?)
}

pub(super) fn scalars(op: Op, x: &Tensor, floats: &[f64]) -> Result<Tensor> {
    match op {
        Op::Affine => {
            let [mul, add] = exactly(floats)?;
            Ok(x.affine(mul, add)?)
        }
        Op::Powf => {
            let [exponent] = exactly(floats)?;
            Ok(x.powf(exponent)?)
        }
        Op::Clamp => {
            let [low, high] = exactly(floats)?;
            clamp(x, low, high)
        }
        _ => bail!("not an operation with real numbers"),
    }
}

/// By choice rather than by maximum and minimum, which would halve the gradient at the bounds; an
/// infinite bound is none. Not a number stays so.
fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    let mut y = x.clone();
    for (bound, outside) in [(low, x.lt(low)?), (high, x.gt(high)?)] {
        if bound.is_finite() {
            let bound = Tensor::full(bound as f32, x.shape(), x.device())?.to_dtype(x.dtype())?;
            y = outside.where_cond(&bound, &y)?;
        }
    }
    Ok(y)
}
