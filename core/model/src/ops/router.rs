//! Routing of tokens to experts, as `transformers.GptOssTopKRouter`: the `k` greatest logits of a
//! token choose its experts, and a softmax over those `k` alone gives their weights.

use super::groups::Groups;
use super::host;
use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

/// Chooses the experts of each token, `[T, k]` u32, by descending logit; of equal logits the lower index comes first.
pub fn top_k(logits: &Tensor, k: usize) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Routing);
    let (t, experts) = logits.dims2()?;
    ensure!(k <= experts, "top-{k} of {experts} experts");
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = logits.device() {
        return super::cuda::router::top_k(logits, k, cuda);
    }
    host::with(logits, |logits: &[f32]| {
        let mut ids = Vec::with_capacity(t * k);
        let mut order: Vec<u32> = Vec::with_capacity(experts);
        for row in logits.chunks(experts) {
            order.clear();
            order.extend(0..experts as u32);
            order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
            ids.extend_from_slice(&order[..k]);
        }
        Ok(host::u32s(ids, (t, k)))
    })
}

/// The routing of a batch: the `(token, choice)` pairs sorted by expert.
#[derive(Debug, Clone)]
pub struct RoutePlan {
    /// The experts of each token, `[T, k]` u32.
    pub ids: Tensor,
    /// The pair (`token * k + choice`) of each sorted row, `[N]` u32.
    pub order: Tensor,
    /// The sorted row of each pair, `[N]` u32.
    pub inverse: Tensor,
    /// The rows of each expert.
    pub groups: Groups,
    /// The number of experts that a token uses.
    pub k: usize,
}

impl RoutePlan {
    /// Sorts the pairs by expert and keeps their order for each expert.
    ///
    /// # Errors
    /// An id is beyond the number of experts.
    pub fn new(ids: &Tensor, experts: usize) -> Result<Self> {
        let _span = profile::span(OpGroup::Routing);
        let (_, k) = ids.dims2()?;
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(cuda) = ids.device()
            && let Some(plan) = super::cuda::router::plan(ids, experts, cuda)?
        {
            return Ok(plan);
        }
        let chosen = ids.flatten_all()?.to_vec1::<u32>()?;
        let mut offsets = vec![0usize; experts + 1];
        for &id in &chosen {
            ensure!((id as usize) < experts, "expert {id} of {experts}");
            offsets[id as usize + 1] += 1;
        }
        for e in 0..experts {
            offsets[e + 1] += offsets[e];
        }
        let mut next = offsets.clone();
        let mut order = vec![0u32; chosen.len()];
        let mut inverse = vec![0u32; chosen.len()];
        for (pair, &id) in chosen.iter().enumerate() {
            let row = next[id as usize];
            next[id as usize] += 1;
            order[row] = pair as u32;
            inverse[pair] = row as u32;
        }
        let device = ids.device();
        Ok(Self {
            ids: ids.clone(),
            order: Tensor::new(order.as_slice(), device)?,
            inverse: Tensor::new(inverse.as_slice(), device)?,
            groups: Groups::new(&offsets, device)?,
            k,
        })
    }

    /// The number of routed rows.
    pub fn rows(&self) -> usize {
        self.groups.rows()
    }
}

/// Computes the weights of the chosen experts, the softmax over their logits, `[T, k]` f32.
pub fn weights(logits: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Routing);
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = logits.device() {
        return super::cuda::router::weights(logits, ids, cuda);
    }
    let kept = logits.to_dtype(DType::F32)?.gather(ids, 1)?;
    let shifted = kept.broadcast_sub(&kept.max_keepdim(1)?)?.exp()?;
    Ok(shifted.broadcast_div(&shifted.sum_keepdim(1)?)?)
}

/// Returns the gradient by the logits `[T, E]` f32 from that by the weights `[T, k]`.
pub fn weights_backward(
    weights: &Tensor,
    ids: &Tensor,
    dweights: &Tensor,
    experts: usize,
) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Routing);
    #[cfg(feature = "cuda")]
    if let candle_core::Device::Cuda(cuda) = weights.device() {
        return super::cuda::router::weights_backward(weights, ids, dweights, experts, cuda);
    }
    let (t, _) = weights.dims2()?;
    let mean = (weights * dweights)?.sum_keepdim(1)?;
    let dkept = (weights * dweights.broadcast_sub(&mean)?)?;
    let zeros = Tensor::zeros((t, experts), DType::F32, weights.device())?;
    Ok(zeros.scatter_add(ids, &dkept, 1)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{dot, finite_differences, random, values};
    use candle_core::Device;

    #[test]
    fn the_greatest_logits_win_and_ties_go_low() {
        let logits = Tensor::new(
            &[[1f32, 3.0, 2.0, 3.0], [0.0, -1.0, 0.0, 0.0]],
            &Device::Cpu,
        )
        .unwrap();
        let ids = top_k(&logits, 3).unwrap().to_vec2::<u32>().unwrap();
        assert_eq!(ids, [[1, 3, 2], [0, 2, 3]]);
    }

    #[test]
    fn plan_sorts_by_expert() {
        let ids = Tensor::new(&[[2u32, 0], [3, 2], [0, 3]], &Device::Cpu).unwrap();
        let plan = RoutePlan::new(&ids, 5).unwrap();
        assert_eq!(plan.groups.host_offsets().unwrap(), [0, 2, 2, 4, 6, 6]);
        assert_eq!(plan.order.to_vec1::<u32>().unwrap(), [1, 4, 0, 3, 2, 5]);
        assert_eq!(plan.inverse.to_vec1::<u32>().unwrap(), [2, 0, 4, 3, 1, 5]);
        assert!(RoutePlan::new(&ids, 3).is_err());
    }

    #[test]
    fn weights_and_their_gradient() {
        let logits = random(1, &[4, 6]);
        let ids = top_k(&logits, 3).unwrap();
        let w = weights(&logits, &ids).unwrap();
        for row in values(&w).chunks(3) {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-6 && row[0] >= row[1]);
        }
        let dw = random(2, &[4, 3]);
        let dlogits = weights_backward(&w, &ids, &dw, 6).unwrap();
        finite_differences(&logits, &dlogits, |x| dot(&weights(x, &ids).unwrap(), &dw));
    }
}
