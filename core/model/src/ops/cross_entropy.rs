//! Cross entropy of logits with labels, fused: `lse(logits) - logits[label]`.

use super::host;
use super::simd::{exp, exp_sum, max, simd};
use anyhow::{Result, ensure};
use candle_core::{CpuStorage, InplaceOp3, Layout, Tensor};
use rayon::prelude::*;

/// The results of one pass over the logits of `n` rows, `[n]` each.
#[derive(Debug, Clone)]
pub struct CrossEntropy {
    /// The loss, f32.
    pub loss: Tensor,
    /// The log-sum-exp, f32.
    pub lse: Tensor,
    /// The index of the greatest logit, u32; the lowest of equal ones.
    pub argmax: Tensor,
}

/// Computes the loss of `logits` `[n, V]` with `labels` `[n]` u32.
///
/// # Errors
/// A label is beyond the vocabulary.
pub fn forward(logits: &Tensor, labels: &Tensor) -> Result<CrossEntropy> {
    let (n, v) = logits.dims2()?;
    ensure!(
        labels.dims() == [n],
        "{n} rows of logits, labels {:?}",
        labels.dims()
    );
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = logits.device() {
        return super::cuda::cross_entropy::forward(logits, labels, cuda);
    }
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

/// Overwrites the logits with the gradient by them, in their type: `(softmax - one_hot) * dloss`, `dloss` `[n]` f32.
///
/// All holders of `logits` see the gradient there. A second buffer would be the largest of a step.
pub fn backward(logits: Tensor, lse: &Tensor, labels: &Tensor, dloss: &Tensor) -> Result<Tensor> {
    let (n, _) = logits.dims2()?;
    ensure!(
        lse.dims() == [n] && labels.dims() == [n] && dloss.dims() == [n],
        "{n} rows of logits, lse {:?}, labels {:?}, gradient {:?}",
        lse.dims(),
        labels.dims(),
        dloss.dims()
    );
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = logits.device().clone() {
        super::cuda::cross_entropy::backward(&logits, lse, labels, dloss, &cuda)?;
        return Ok(logits);
    }
    let labels = host::with(labels, |labels: &[u32]| Ok(labels.to_vec()))?;
    let (lse, dloss) = (lse.contiguous()?, dloss.contiguous()?);
    logits.inplace_op3(&lse, &dloss, &Backward { labels })?;
    Ok(logits)
}

/// Writes the gradient over the logits, on the CPU.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, dot, finite_differences, random, values};
    use candle_core::Device;

    #[test]
    fn value_and_gradient() {
        let labels = Tensor::new(&[0u32, 8, 3], &Device::Cpu).unwrap();
        let logits = (random(1, &[3, 9]) * 3.0).unwrap();
        let expected: Vec<f64> = values(&logits)
            .chunks(9)
            .zip([0, 8, 3])
            .map(|(row, label)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[label])
            .collect();
        let found = forward(&logits, &labels).unwrap();
        close(&found.loss, &expected, 1e-6);
        let dloss = random(2, &[3]);
        let memory = logits.copy().unwrap();
        let dlogits = backward(memory.clone(), &found.lse, &labels, &dloss).unwrap();
        assert_eq!(values(&memory), values(&dlogits));
        finite_differences(&logits, &dlogits, |x| {
            dot(&forward(x, &labels).unwrap().loss, &dloss)
        });
    }

    #[test]
    fn the_greatest_logit_is_the_first_of_equal_ones() {
        let rows = [[1f32, 3.0, 3.0, 2.0], [0.0; 4], [-1.0, f32::NAN, 5.0, 7.0]];
        let logits = Tensor::new(&rows, &Device::Cpu).unwrap();
        let labels = Tensor::new(&[0u32, 1, 2], &Device::Cpu).unwrap();
        let found = forward(&logits, &labels).unwrap();
        assert_eq!(found.argmax.to_vec1::<u32>().unwrap()[..2], [1, 0]);
        assert!(found.loss.to_vec1::<f32>().unwrap()[2].is_nan());
    }

    #[test]
    fn large_logits_do_not_overflow_and_a_wild_label_is_an_error() {
        let logits = Tensor::new(&[[1e4f32, 1e4, -1e4]], &Device::Cpu).unwrap();
        let at = |label: u32| forward(&logits, &Tensor::new(&[label], &Device::Cpu).unwrap());
        close(&at(0).unwrap().loss, &[2f64.ln()], 1e-6);
        assert!(at(3).unwrap_err().to_string().contains("label 3"));
    }
}
