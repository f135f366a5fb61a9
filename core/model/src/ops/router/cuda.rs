//! Routing on the card: the host does not wait for the sizes of groups.

use super::RoutePlan;
use crate::ops::Groups;
use crate::ops::cuda::{empty, input, output};
use anyhow::Result;
use apus_kernels::{
    MOST_ROUTED_EXPERTS, PAIRS_PER_BLOCK, route_count, route_scan, route_scatter, router_top_k,
    router_weights, router_weights_backward,
};
use candle_core::{CudaDevice, DType, Tensor};

/// The experts of each token.
pub fn top_k(logits: &Tensor, k: usize, cuda: &CudaDevice) -> Result<Tensor> {
    let (t, experts) = logits.dims2()?;
    let ids = empty((t, k), DType::U32, cuda)?;
    router_top_k {
        ids: output(&ids)?,
        logits: input(logits)?,
        tokens: t,
        experts,
        k,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(ids)
}

/// The pairs sorted by expert without the host; `None` for more experts than the kernels take.
pub fn plan(ids: &Tensor, experts: usize, cuda: &CudaDevice) -> Result<Option<RoutePlan>> {
    if experts > MOST_ROUTED_EXPERTS {
        return Ok(None);
    }
    let (t, k) = ids.dims2()?;
    let (ids, pairs) = (ids.contiguous()?, t * k);
    let blocks = pairs.div_ceil(PAIRS_PER_BLOCK);
    let one = |count: usize| empty(count, DType::U32, cuda);
    let (counts, offsets) = (one(blocks * experts)?, one(experts + 1)?);
    let (order, inverse) = (one(pairs)?, one(pairs)?);
    route_count {
        counts: output(&counts)?,
        ids: input(&ids)?,
        pairs,
        experts,
    }
    .launch(&cuda.cuda_stream())?;
    route_scan {
        offsets: output(&offsets)?,
        counts: output(&counts)?,
        blocks,
        experts,
    }
    .launch(&cuda.cuda_stream())?;
    route_scatter {
        order: output(&order)?,
        inverse: output(&inverse)?,
        ids: input(&ids)?,
        first: input(&counts)?,
        pairs,
        experts,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(Some(RoutePlan {
        ids,
        order,
        inverse,
        groups: Groups::on_device(offsets, pairs),
        k,
    }))
}

/// Softmax over the chosen.
pub fn weights(logits: &Tensor, ids: &Tensor, cuda: &CudaDevice) -> Result<Tensor> {
    let ((t, experts), (_, k)) = (logits.dims2()?, ids.dims2()?);
    let weights = empty((t, k), DType::F32, cuda)?;
    router_weights {
        weights: output(&weights)?,
        logits: input(logits)?,
        ids: input(ids)?,
        tokens: t,
        experts,
        k,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(weights)
}

/// Gradient by the logits.
pub fn weights_backward(
    weights: &Tensor,
    ids: &Tensor,
    dweights: &Tensor,
    experts: usize,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let (t, k) = weights.dims2()?;
    let dlogits = empty((t, experts), DType::F32, cuda)?;
    router_weights_backward {
        dlogits: output(&dlogits)?,
        weights: input(weights)?,
        ids: input(ids)?,
        dweights: input(dweights)?,
        tokens: t,
        experts,
        k,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(dlogits)
}
