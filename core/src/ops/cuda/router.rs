//! See [`crate::ops::router`].

use super::launch::{Grid, empty, f32, int, launch, u32};
use anyhow::Result;
use apus_kernels::ROUTER;
use candle_core::{CudaDevice, DType, Tensor};

/// The experts of each token.
pub fn top_k(logits: &Tensor, k: usize, cuda: &CudaDevice) -> Result<Tensor> {
    let (t, experts) = logits.dims2()?;
    let ids = empty((t, k), DType::U32, cuda)?;
    let args = [u32(&ids)?, f32(logits)?, int(t)?, int(experts)?, int(k)?];
    launch(cuda, &ROUTER, "router_top_k", Grid::rows(t), &args)?;
    Ok(ids)
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
