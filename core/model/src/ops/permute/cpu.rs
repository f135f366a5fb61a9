//! One task for each row that is written.

use crate::ops::host;
use crate::ops::router::RoutePlan;
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Rows of tokens in the order of experts.
pub fn gather(x: &Tensor, plan: &RoutePlan) -> Result<Tensor> {
    let (_, h) = x.dims2()?;
    host::with(x, |x: &[f32]| {
        host::with(&plan.order, |order: &[u32]| {
            let mut out = vec![0f32; order.len() * h];
            out.par_chunks_mut(h).zip(order).for_each(|(out, &pair)| {
                let token = pair as usize / plan.k;
                out.copy_from_slice(&x[token * h..(token + 1) * h]);
            });
            Ok(host::f32s(out, (order.len(), h)))
        })
    })
}

/// Sum of each token's rows.
pub fn gather_backward(dxs: &Tensor, plan: &RoutePlan, add: Option<&Tensor>) -> Result<Tensor> {
    let (n, h) = dxs.dims2()?;
    let t = n / plan.k;
    let dx = host::with(dxs, |dxs: &[f32]| {
        host::with(&plan.inverse, |inverse: &[u32]| {
            let mut out = vec![0f32; t * h];
            out.par_chunks_mut(h)
                .zip(inverse.par_chunks(plan.k))
                .for_each(|(out, rows)| {
                    for &row in rows {
                        let row = row as usize * h;
                        for (out, d) in out.iter_mut().zip(&dxs[row..row + h]) {
                            *out += d;
                        }
                    }
                });
            Ok(host::f32s(out, (t, h)))
        })
    })?;
    add_optional(dx, add)
}

/// Weighted sum of each token's rows.
pub fn combine(
    y: &Tensor,
    weights: &Tensor,
    plan: &RoutePlan,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let (n, h) = y.dims2()?;
    let t = n / plan.k;
    let out = host::with2(y, weights, |y, weights| {
        host::with(&plan.inverse, |inverse: &[u32]| {
            let mut out = vec![0f32; t * h];
            let choices = inverse.par_chunks(plan.k).zip(weights.par_chunks(plan.k));
            out.par_chunks_mut(h)
                .zip(choices)
                .for_each(|(out, (rows, weights))| {
                    for (&row, &w) in rows.iter().zip(weights) {
                        let row = row as usize * h;
                        for (out, y) in out.iter_mut().zip(&y[row..row + h]) {
                            *out += w * y;
                        }
                    }
                });
            Ok(host::f32s(out, (t, h)))
        })
    })?;
    add_optional(out, residual)
}

fn add_optional(x: Tensor, more: Option<&Tensor>) -> Result<Tensor> {
    match more {
        Some(more) => Ok((x + more)?),
        None => Ok(x),
    }
}
