//! The formulas, by the operations for any number of rows.

use super::{Choices, Layer, Matrices, Matrix, Routes};
use crate::ops::grouped::{self, Addends};
use crate::ops::router::{self, RoutePlan};
use crate::ops::swiglu::{self, Activation};
use crate::ops::{linear, mxfp4, rms_norm};
use anyhow::Result;
use candle_core::Tensor;

/// Sums and normed rows.
pub fn norm(
    y: &Tensor,
    sum: Option<&Tensor>,
    x: &Tensor,
    delta: Option<&Tensor>,
    choices: Option<Choices>,
    (w, eps): (&Tensor, f64),
) -> Result<()> {
    let mut total = x.clone();
    if let Some(delta) = delta {
        total = (total + delta)?;
    }
    if let Some(Choices { rows, weights }) = choices {
        let (t, k) = weights.dims2()?;
        let rows = rows.reshape((t, k, ()))?;
        total = (total + rows.broadcast_mul(&weights.unsqueeze(2)?)?.sum(1)?)?;
    }
    y.slice_set(&rms_norm::forward(&total, w, eps)?, 0, 0)?;
    if let Some(sum) = sum {
        sum.slice_set(&total.contiguous()?, 0, 0)?;
    }
    Ok(())
}

/// A product of all rows.
pub fn product(y: &Tensor, x: &Tensor, matrix: Matrix, _alone: bool) -> Result<()> {
    let mut found = linear::forward(x, matrix.w, matrix.bias)?;
    if let Some(residual) = matrix.residual {
        found = (found + residual)?;
    }
    Ok(y.slice_set(&found.contiguous()?, 0, 0)?)
}

/// Ids and weights, from which the other functions sort the pairs.
pub fn route(routes: &Routes, logits: &Tensor) -> Result<()> {
    let ids = router::top_k(logits, routes.ids.dim(1)?)?;
    routes
        .weights
        .slice_set(&router::weights(logits, &ids)?, 0, 0)?;
    Ok(routes.ids.slice_set(&ids, 0, 0)?)
}

/// Gates and values, and the activation.
pub fn gate_up(
    h: &Tensor,
    x: &Tensor,
    layer: Layer,
    routes: &Routes,
    activation: Activation,
) -> Result<()> {
    let k = routes.ids.dim(1)?;
    let (t, i) = x.dims2()?;
    let pairs = x.unsqueeze(1)?.broadcast_as((t, k, i))?;
    let found = by_pair(&pairs.reshape((t * k, i))?, layer, routes)?;
    Ok(h.slice_set(&swiglu::forward(&found, activation)?, 0, 0)?)
}

/// Outputs.
pub fn down(y: &Tensor, h: &Tensor, layer: Layer, routes: &Routes) -> Result<()> {
    Ok(y.slice_set(&by_pair(h, layer, routes)?.contiguous()?, 0, 0)?)
}

/// The product of each pair's row of `x` `[T K, I]` with the matrix of its expert, and what is added to it.
fn by_pair(x: &Tensor, layer: Layer, routes: &Routes) -> Result<Tensor> {
    let plan = RoutePlan::new(&routes.ids, routes.experts)?;
    let w = match layer.matrices {
        Matrices::Packed { blocks, scales } => mxfp4::dequantize(blocks, scales)?,
        Matrices::Dense(w) => w.clone(),
    };
    let addends = Addends {
        bias: layer.bias.cloned(),
        low_rank: None,
    };
    let rows = x.index_select(&plan.order, 0)?;
    let y = grouped::matmul(&rows, &w.transpose(1, 2)?, &plan.groups, &addends)?;
    let y = y.index_select(&plan.inverse, 0)?;
    match layer.low_rank {
        Some(low) => Ok((y + low)?),
        None => Ok(y),
    }
}
