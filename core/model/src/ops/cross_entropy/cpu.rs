//! One task for each row, in f32.

use super::CrossEntropy;
use crate::ops::host;
use crate::ops::simd::{exp, exp_sum, max, simd};
use anyhow::Result;
use candle_core::{CpuStorage, InplaceOp3, Layout, Tensor};
use rayon::prelude::*;

/// Loss, log-sum-exp and greatest logit of each row.
pub fn forward(logits: &Tensor, labels: &Tensor) -> Result<CrossEntropy> {
    let (n, v) = logits.dims2()?;
    host::with(logits, |logits: &[f32]| {
        host::with(labels, |labels: &[u32]| {
            if let Some(&label) = labels.iter().find(|&&label| label as usize >= v) {
                anyhow::bail!("label {label} is beyond the vocabulary of {v}");
            }
            let rows: Vec<(f32, (f32, u32))> = logits
                .par_chunks(v)
                .zip(labels)
                .map(|(row, &label)| {
                    let top = max(row, f32::NEG_INFINITY);
                    let sum = exp_sum(row, top);
                    let argmax = row.iter().position(|&x| x == top).unwrap_or(0);
                    let loss = sum.ln() + (top - row[label as usize]);
                    (loss, (top + sum.ln(), argmax as u32))
                })
                .collect();
            let (loss, (lse, argmax)): (_, (_, _)) = rows.into_iter().unzip();
            Ok(CrossEntropy {
                loss: host::f32s(loss, n),
                lse: host::f32s(lse, n),
                argmax: host::u32s(argmax, n),
            })
        })
    })
}

/// The gradient over the logits.
pub fn backward(logits: Tensor, lse: &Tensor, labels: &Tensor, dloss: &Tensor) -> Result<Tensor> {
    let labels = host::with(labels, |labels: &[u32]| Ok(labels.to_vec()))?;
    let (lse, dloss) = (lse.contiguous()?, dloss.contiguous()?);
    logits.inplace_op3(&lse, &dloss, &Backward { labels })?;
    Ok(logits)
}

/// Writes the gradient over the logits.
struct Backward {
    labels: Vec<u32>,
}

impl InplaceOp3 for Backward {
    fn name(&self) -> &'static str {
        "cross entropy backward"
    }

    fn cpu_fwd(
        &self,
        logits: &mut CpuStorage,
        logits_l: &Layout,
        lse: &CpuStorage,
        lse_l: &Layout,
        dloss: &CpuStorage,
        dloss_l: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(logits), Some((start, end))) = (logits, logits_l.contiguous_offsets())
        else {
            candle_core::bail!("cross entropy: expected contiguous f32 logits");
        };
        let (_, v) = logits_l.shape().dims2()?;
        let (lse, dloss) = (rows(lse, lse_l)?, rows(dloss, dloss_l)?);
        logits[start..end]
            .par_chunks_mut(v)
            .zip(lse.par_iter().zip(dloss).zip(&self.labels))
            .for_each(|(row, ((lse, d), &label))| {
                scaled_softmax(row, *lse, *d);
                row[label as usize] -= d;
            });
        Ok(())
    }
}

fn rows<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("cross entropy: expected a contiguous f32 number for each row"),
    }
}

simd! {
    fn scaled_softmax(row: &mut [f32], lse: f32, scale: f32) {
        for x in row {
            *x = exp(*x - lse) * scale;
        }
    }
}
