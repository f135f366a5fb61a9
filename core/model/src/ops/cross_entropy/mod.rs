//! Cross entropy of logits with labels, fused: `lse(logits) - logits[label]`.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use anyhow::{Result, ensure};
use candle_core::Tensor;

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
    let (n, _) = logits.dims2()?;
    ensure!(
        labels.dims() == [n],
        "{n} rows of logits, labels {:?}",
        labels.dims()
    );
    on_device!(logits.device(), forward(logits, labels))
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
        cuda::backward(&logits, lse, labels, dloss, &cuda)?;
        return Ok(logits);
    }
    cpu::backward(logits, lse, labels, dloss)
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
