//! Groups one after another.

use crate::ops::groups::Groups;
use crate::ops::host;
use crate::ops::simd::axpy;
use anyhow::Result;
use candle_core::{DType, Tensor};

/// One product for each group that has rows.
pub fn separate(x: &Tensor, w: &Tensor, groups: &Groups) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(groups.count());
    for (g, rows) in groups.filled()? {
        parts.push(x.narrow(0, rows.start, rows.len())?.matmul(&w.get(g)?)?);
    }
    if parts.is_empty() {
        return Ok(Tensor::zeros((0, w.dim(2)?), x.dtype(), x.device())?);
    }
    Ok(Tensor::cat(&parts, 0)?)
}

/// Each group's `x^T dy`.
pub fn weight_grad(x: &Tensor, dy: &Tensor, groups: &Groups) -> Result<Tensor> {
    let ((_, i), (_, o)) = (x.dims2()?, dy.dims2()?);
    let zeros = Tensor::zeros((i, o), DType::F32, x.device())?;
    let mut parts = vec![zeros; groups.count()];
    for (g, rows) in groups.filled()? {
        let (x, dy) = (
            x.narrow(0, rows.start, rows.len())?,
            dy.narrow(0, rows.start, rows.len())?,
        );
        parts[g] = x.t()?.matmul(&dy)?;
    }
    Ok(Tensor::stack(&parts, 0)?)
}

/// The rows plus the bias of their group.
pub fn add_bias(y: Tensor, bias: &Tensor, groups: &Groups) -> Result<Tensor> {
    let (n, o) = y.dims2()?;
    host::with2(&y, bias, |y, bias| {
        let mut out = y.to_vec();
        for (g, rows) in groups.filled()? {
            for row in out[rows.start * o..rows.end * o].chunks_mut(o) {
                axpy(row, 1.0, &bias[g * o..(g + 1) * o]);
            }
        }
        Ok(host::f32s(out, (n, o)))
    })
}

/// Sum of each group's rows.
pub fn bias_grad(dy: &Tensor, groups: &Groups) -> Result<Tensor> {
    let (_, o) = dy.dims2()?;
    let count = groups.count();
    host::with(dy, |dy: &[f32]| {
        let mut out = vec![0f32; count * o];
        for (g, rows) in groups.filled()? {
            let sum = &mut out[g * o..(g + 1) * o];
            for row in dy[rows.start * o..rows.end * o].chunks(o) {
                axpy(sum, 1.0, row);
            }
        }
        Ok(host::f32s(out, (count, o)))
    })
}
