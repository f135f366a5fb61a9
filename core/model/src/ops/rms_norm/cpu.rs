//! One task for each row.

use crate::ops::host;
use anyhow::Result;
use candle_core::Tensor;
use rayon::prelude::*;

/// Normalises rows.
pub fn forward(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let (t, h) = x.dims2()?;
    host::with2(x, w, |x, w| {
        let mut y = vec![0f32; t * h];
        y.par_chunks_mut(h).zip(x.par_chunks(h)).for_each(|(y, x)| {
            let r = inverse_rms(x, eps);
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                *y = w * (x * r);
            }
        });
        Ok(host::f32s(y, (t, h)))
    })
}

/// Gradient by `x`.
pub fn backward(
    x: &Tensor,
    w: &Tensor,
    eps: f64,
    dy: &Tensor,
    add: Option<&Tensor>,
) -> Result<Tensor> {
    let (t, h) = x.dims2()?;
    let dx = host::with3(x, w, dy, |x, w, dy| {
        let mut dx = vec![0f32; t * h];
        let rows = x.par_chunks(h).zip(dy.par_chunks(h));
        dx.par_chunks_mut(h).zip(rows).for_each(|(dx, (x, dy))| {
            let r = inverse_rms(x, eps);
            let projection: f32 = x
                .iter()
                .zip(dy)
                .zip(w)
                .map(|((&x, &d), &w)| x * d * w)
                .sum();
            let pull = projection / h as f32 * r * r;
            for (((dx, &x), &d), &w) in dx.iter_mut().zip(x).zip(dy).zip(w) {
                *dx = r * (d * w - x * pull);
            }
        });
        Ok(host::f32s(dx, (t, h)))
    })?;
    match add {
        Some(add) => Ok((dx + add)?),
        None => Ok(dx),
    }
}

/// Gradient by the weight.
pub fn weight_grad(x: &Tensor, eps: f64, dy: &Tensor) -> Result<Tensor> {
    let (_, h) = x.dims2()?;
    host::with2(x, dy, |x, dy| {
        let mut dw = vec![0f32; h];
        for (x, dy) in x.chunks(h).zip(dy.chunks(h)) {
            let r = inverse_rms(x, eps);
            for ((dw, &x), &d) in dw.iter_mut().zip(x).zip(dy) {
                *dw += d * x * r;
            }
        }
        Ok(host::f32s(dw, h))
    })
}

fn inverse_rms(x: &[f32], eps: f64) -> f32 {
    let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
    1.0 / (mean + eps as f32).sqrt()
}
