//! Cross entropy of logits with labels, fused: `lse(logits) - logits[label]`.

use super::host;
use super::wide::{exp, exp_sum, max, wide};
use anyhow::{Result, ensure};
use candle_core::Tensor;
use rayon::prelude::*;

/// `logits` `[n, V]`, `labels` `[n]` u32 to the loss of each row and its log-sum-exp, `[n]` f32 each.
///
/// # Errors
/// A label beyond the vocabulary, or shapes that do not fit.
pub fn forward(logits: &Tensor, labels: &Tensor) -> Result<(Tensor, Tensor)> {
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
            let rows: Vec<(f32, f32)> = logits
                .par_chunks(v)
                .zip(labels)
                .map(|(row, &label)| {
                    let top = max(row, f32::NEG_INFINITY);
                    let sum = exp_sum(row, top);
                    (sum.ln() + (top - row[label as usize]), top + sum.ln())
                })
                .collect();
            let (loss, lse) = rows.into_iter().unzip();
            Ok((host::f32s(loss, n), host::f32s(lse, n)))
        })
    })
}

/// Gradient by the logits, in their type: `(softmax - one_hot) * dloss`, `dloss` `[n]` f32.
///
/// # Errors
/// Shapes do not fit.
pub fn backward(logits: &Tensor, lse: &Tensor, labels: &Tensor, dloss: &Tensor) -> Result<Tensor> {
    let (n, v) = logits.dims2()?;
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = logits.device() {
        return super::cuda::cross_entropy::backward(logits, lse, labels, dloss, cuda);
    }
    host::with3(logits, lse, dloss, |logits, lse, dloss| {
        host::with(labels, |labels: &[u32]| {
            let mut out = vec![0f32; n * v];
            let rows = logits.par_chunks(v).zip(lse).zip(dloss).zip(labels);
            out.par_chunks_mut(v)
                .zip(rows)
                .for_each(|(out, (((row, lse), d), &label))| {
                    scaled_softmax(out, row, *lse, *d);
                    out[label as usize] -= d;
                });
            Ok(host::f32s(out, (n, v)))
        })
    })
}

wide! {
    fn scaled_softmax(out: &mut [f32], row: &[f32], lse: f32, scale: f32) {
        for (out, x) in out.iter_mut().zip(row) {
            *out = exp(x - lse) * scale;
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
        let (loss, lse) = forward(&logits, &labels).unwrap();
        close(&loss, &expected, 1e-6);
        let dloss = random(2, &[3]);
        let dlogits = backward(&logits, &lse, &labels, &dloss).unwrap();
        finite_differences(&logits, &dlogits, |x| {
            dot(&forward(x, &labels).unwrap().0, &dloss)
        });
    }

    #[test]
    fn large_logits_do_not_overflow_and_a_wild_label_is_an_error() {
        let logits = Tensor::new(&[[1e4f32, 1e4, -1e4]], &Device::Cpu).unwrap();
        let at = |label: u32| forward(&logits, &Tensor::new(&[label], &Device::Cpu).unwrap());
        close(&at(0).unwrap().0, &[2f64.ln()], 1e-6);
        assert!(at(3).unwrap_err().to_string().contains("label 3"));
    }
}
