//! Routing of tokens to experts: the `k` greatest logits of a token choose its experts, and a softmax over those `k` alone gives
//! their weights.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::groups::Groups;
use crate::profile::{self, OpGroup};
use anyhow::{Result, ensure};
use candle_core::Tensor;

/// Chooses the experts of each token, `[T, k]` u32, by descending logit; of equal logits the lower index comes first.
pub fn top_k(logits: &Tensor, k: usize) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Routing);
    let (_, experts) = logits.dims2()?;
    ensure!(k <= experts, "top-{k} of {experts} experts");
    on_device!(logits.device(), top_k(logits, k))
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
        #[cfg(feature = "cuda")]
        if let candle_core::Device::Cuda(cuda) = ids.device()
            && let Some(plan) = cuda::plan(ids, experts, cuda)?
        {
            return Ok(plan);
        }
        cpu::plan(ids, experts)
    }

    /// The number of routed rows.
    pub fn rows(&self) -> usize {
        self.groups.rows()
    }
}

/// Computes the weights of the chosen experts, the softmax over their logits, `[T, k]` f32.
pub fn weights(logits: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Routing);
    on_device!(logits.device(), weights(logits, ids))
}

/// Returns the gradient by the logits `[T, E]` f32 from that by the weights `[T, k]`.
pub fn weights_backward(
    weights: &Tensor,
    ids: &Tensor,
    dweights: &Tensor,
    experts: usize,
) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Routing);
    on_device!(
        weights.device(),
        weights_backward(weights, ids, dweights, experts)
    )
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
