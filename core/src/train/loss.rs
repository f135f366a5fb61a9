//! From hidden states to a loss and back, over supervised tokens only, a chunk at a time.

use crate::host::chunk_loss;
use crate::model::Head;
use crate::profile::{self, Group};
use crate::registry::Named;
use anyhow::Result;
use apus_sdk::Loss;
use candle_core::{D, Tensor};

/// Logits of one chunk hold at most this many numbers.
const CHUNK_ELEMENTS: usize = 1 << 28;

/// The supervised positions of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Supervised {
    /// Position of each supervised token's *predecessor* among all tokens, ascending.
    pub rows: Vec<u32>,
    /// The right token for each.
    pub labels: Vec<u32>,
    /// Its weight.
    pub weights: Vec<f32>,
    /// Number of supervised tokens of each sequence.
    pub lengths: Vec<usize>,
}

/// What is known of each supervised token.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tokens {
    /// The right tokens.
    pub labels: Vec<u32>,
    /// The most probable tokens.
    pub predictions: Vec<u32>,
    /// Weight of each in the loss.
    pub weights: Vec<f32>,
    /// Loss of each, unweighted.
    pub losses: Vec<f32>,
    /// Number of supervised tokens of each sequence.
    pub lengths: Vec<usize>,
}

/// What the supervised tokens of a batch gave.
pub struct LossReport {
    /// Sum of weight times loss.
    pub sum: f64,
    /// Labels, predictions and losses, for metrics.
    pub tokens: Tokens,
    /// Gradient of `sum * scale` by the hidden states `[T, H]`, if asked for.
    pub dhidden: Option<Tensor>,
}

/// Loss of the supervised tokens; with `scale`, also the gradient of `sum(weight * loss) * scale`,
/// accumulated into the head's trainable parameters and returned for the hidden states.
///
/// `hidden` `[T, H]` is the last layer's output before the final norm.
///
/// # Errors
/// The loss component failed, or the device ran out of memory.
pub fn head_loss(
    head: &Head,
    loss: &Named<dyn Loss>,
    hidden: &Tensor,
    supervised: &Supervised,
    scale: Option<f64>,
) -> Result<LossReport> {
    let _span = profile::whole(Group::Head);
    let device = hidden.device();
    let Supervised {
        rows,
        labels,
        weights,
        lengths,
    } = supervised;
    let mut tokens = Tokens {
        labels: labels.clone(),
        weights: weights.clone(),
        lengths: lengths.clone(),
        ..Tokens::default()
    };
    if rows.is_empty() {
        let dhidden = scale.map(|_| hidden.zeros_like()).transpose()?;
        return Ok(LossReport {
            sum: 0.0,
            tokens,
            dhidden,
        });
    }
    let picked = hidden.index_select(&Tensor::new(rows.as_slice(), device)?, 0)?;
    let (normed, tape) = head.forward(&picked)?;
    let chunk = (CHUNK_ELEMENTS / head.vocab_size()).clamp(64, 4096);
    let mut gradients = Vec::new();
    for start in (0..rows.len()).step_by(chunk) {
        let len = chunk.min(rows.len() - start);
        let normed = normed.narrow(0, start, len)?;
        let logits = head.logits(&normed)?;
        let labels = Tensor::new(&labels[start..start + len], device)?;
        let weights = Tensor::new(&weights[start..start + len], device)?;
        let found = chunk_loss(loss, &logits, &labels, &weights, scale)?;
        tokens.losses.extend(found.per_token.to_vec1::<f32>()?);
        tokens
            .predictions
            .extend(logits.argmax(D::Minus1)?.to_vec1::<u32>()?);
        if let Some(dlogits) = found.dlogits {
            gradients.push(head.logits_backward(&normed, &dlogits)?);
        }
    }
    let sum = tokens
        .losses
        .iter()
        .zip(weights)
        .map(|(&l, &w)| f64::from(l) * f64::from(w))
        .sum();
    let dhidden = match scale {
        Some(_) => {
            let drows = head.backward(&tape, &Tensor::cat(&gradients, 0)?)?;
            Some(spread(&drows, rows, hidden)?)
        }
        None => None,
    };
    Ok(LossReport {
        sum,
        tokens,
        dhidden,
    })
}

/// Rows of `drows` at their positions among the rows of `like`, zeros elsewhere: a gather from
/// `drows` with a row of zeros at its end, since scattering is serial on the GPU.
fn spread(drows: &Tensor, rows: &[u32], like: &Tensor) -> Result<Tensor> {
    let (t, h) = like.dims2()?;
    let mut source = vec![rows.len() as u32; t];
    for (i, &row) in rows.iter().enumerate() {
        source[row as usize] = i as u32;
    }
    let zero = Tensor::zeros((1, h), drows.dtype(), drows.device())?;
    let source = Tensor::new(source.as_slice(), drows.device())?;
    Ok(Tensor::cat(&[drows, &zero], 0)?.index_select(&source, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn rows_go_back_where_they_came_from() {
        let like = Tensor::zeros((4, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
        let drows = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let spread = spread(&drows, &[0, 2], &like)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        assert_eq!(spread, [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0], [0.0, 0.0]]);
    }
}
