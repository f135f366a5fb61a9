//! Moves rows from the order of tokens to the order of experts and back.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use super::router::RoutePlan;
use crate::profile::{self, OpGroup};
use anyhow::Result;
use candle_core::Tensor;

/// Copies the rows of tokens in the order of experts, `x` `[T, H]` to `[N, H]`.
pub fn gather(x: &Tensor, plan: &RoutePlan) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Routing);
    on_device!(x.device(), gather(x, plan))
}

/// Returns the gradient of [`gather`]: the sum of each token's `k` rows, plus `add`, the gradient by another path.
pub fn gather_backward(dxs: &Tensor, plan: &RoutePlan, add: Option<&Tensor>) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Routing);
    on_device!(dxs.device(), gather_backward(dxs, plan, add))
}

/// Sums the experts' outputs `y` `[N, H]` by `weights` `[T, k]` f32 and adds a residual; returns `[T, H]`.
pub fn combine(
    y: &Tensor,
    weights: &Tensor,
    plan: &RoutePlan,
    residual: Option<&Tensor>,
) -> Result<Tensor> {
    let _span = profile::span(OpGroup::Routing);
    on_device!(y.device(), combine(y, weights, plan, residual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{close, dot, finite_differences, random, values};
    use candle_core::Device;

    fn plan() -> RoutePlan {
        let ids = Tensor::new(&[[2u32, 0], [3, 2], [0, 3]], &Device::Cpu).unwrap();
        RoutePlan::new(&ids, 5).unwrap()
    }

    #[test]
    fn rows_go_to_their_experts() {
        let x = random(1, &[3, 4]);
        let rows = values(&x);
        let expected: Vec<f64> = [0, 2, 0, 1, 1, 2]
            .iter()
            .flat_map(|&t| rows[t * 4..t * 4 + 4].to_vec())
            .collect();
        close(&gather(&x, &plan()).unwrap(), &expected, 0.0);
    }

    #[test]
    fn gradients() {
        let plan = plan();
        let (x, dxs) = (random(1, &[3, 4]), random(2, &[6, 4]));
        let dx = gather_backward(&dxs, &plan, None).unwrap();
        finite_differences(&x, &dx, |x| dot(&gather(x, &plan).unwrap(), &dxs));
        let more = gather_backward(&dxs, &plan, Some(&x)).unwrap();
        close(&(more - dx).unwrap(), &values(&x), 1e-6);
    }

    #[test]
    fn a_token_gets_its_rows_by_weight_and_the_residual() {
        let (y, w, residual) = (random(3, &[6, 4]), random(4, &[3, 2]), random(5, &[3, 4]));
        let (ys, ws, rs) = (values(&y), values(&w), values(&residual));
        let mut expected = rs;
        for (row, pair) in [1, 4, 0, 3, 2, 5].into_iter().enumerate() {
            for h in 0..4 {
                expected[pair / 2 * 4 + h] += ws[pair] * ys[row * 4 + h];
            }
        }
        let out = combine(&y, &w, &plan(), Some(&residual)).unwrap();
        close(&out, &expected, 1e-6);
    }
}
