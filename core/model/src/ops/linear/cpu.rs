//! candle's products; a bias is that of one group.

use crate::ops::grouped;
use crate::ops::groups::Groups;
use anyhow::Result;
use candle_core::Tensor;

/// Adds a bias.
pub fn add_bias(y: Tensor, bias: &Tensor) -> Result<Tensor> {
    let rows = y.dim(0)?;
    let groups = Groups::one(rows, y.device())?;
    grouped::add_bias(y, &bias.unsqueeze(0)?, &groups)
}

/// `x w^T`.
pub fn product(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    Ok(x.matmul(&w.t()?)?)
}

/// `dy^T x`.
pub fn weight_grad(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    Ok(dy.t()?.matmul(x)?)
}

/// Sum of rows.
pub fn bias_grad(dy: &Tensor) -> Result<Tensor> {
    let groups = Groups::one(dy.dim(0)?, dy.device())?;
    Ok(grouped::bias_grad(dy, &groups)?.squeeze(0)?)
}
