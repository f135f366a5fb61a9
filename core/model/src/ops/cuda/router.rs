//! See [`crate::ops::router`].

use super::launch::{Grid, empty, f32, int, launch, u32};
use crate::ops::Groups;
use crate::ops::router::RoutePlan;
use anyhow::Result;
use apus_kernels::{ROUTE, ROUTER, route};
use candle_core::{CudaDevice, DType, Tensor};

/// The experts of each token.
pub fn top_k(logits: &Tensor, k: usize, cuda: &CudaDevice) -> Result<Tensor> {
    let (t, experts) = logits.dims2()?;
    let ids = empty((t, k), DType::U32, cuda)?;
    let args = [u32(&ids)?, f32(logits)?, int(t)?, int(experts)?, int(k)?];
    launch(cuda, &ROUTER, "router_top_k", Grid::rows(t), &args)?;
    Ok(ids)
}

/// The pairs sorted by expert without the host; `None` for more experts than the kernels take.
pub fn plan(ids: &Tensor, experts: usize, cuda: &CudaDevice) -> Result<Option<RoutePlan>> {
    if experts > route::MOST_EXPERTS {
        return Ok(None);
    }
    let (t, k) = ids.dims2()?;
    let (ids, pairs) = (ids.contiguous()?, t * k);
    let blocks = pairs.div_ceil(route::PAIRS_PER_BLOCK);
    let one = |count: usize| empty(count, DType::U32, cuda);
    let (counts, offsets) = (one(blocks * experts)?, one(experts + 1)?);
    let (order, inverse) = (one(pairs)?, one(pairs)?);
    let each = Grid::new([blocks, 1, 1], route::PAIRS_PER_BLOCK as u32);
    let (pair_count, expert_count) = (int(pairs)?, int(experts)?);
    let args = [u32(&counts)?, u32(&ids)?, pair_count, expert_count];
    launch(cuda, &ROUTE, "route_count", each, &args)?;
    let args = [u32(&offsets)?, u32(&counts)?, int(blocks)?, expert_count];
    let all = Grid::new([1, 1, 1], route::MOST_EXPERTS as u32);
    launch(cuda, &ROUTE, "route_scan", all, &args)?;
    let args = [
        u32(&order)?,
        u32(&inverse)?,
        u32(&ids)?,
        u32(&counts)?,
        pair_count,
        expert_count,
    ];
    launch(cuda, &ROUTE, "route_scatter", each, &args)?;
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
    let args = [
        f32(&weights)?,
        f32(logits)?,
        u32(ids)?,
        int(t)?,
        int(experts)?,
        int(k)?,
    ];
    launch(
        cuda,
        &ROUTER,
        "router_weights",
        Grid::new([t.div_ceil(128), 1, 1], 128),
        &args,
    )?;
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
    let args = [
        f32(&dlogits)?,
        f32(weights)?,
        u32(ids)?,
        f32(dweights)?,
        int(t)?,
        int(experts)?,
        int(k)?,
    ];
    launch(
        cuda,
        &ROUTER,
        "router_weights_backward",
        Grid::rows(t),
        &args,
    )?;
    Ok(dlogits)
}
