//! Routing with a stable sort by counting.

use super::RoutePlan;
use crate::ops::{Groups, host};
use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};

/// The experts of each token.
pub fn top_k(logits: &Tensor, k: usize) -> Result<Tensor> {
    let (t, experts) = logits.dims2()?;
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

/// The pairs sorted by expert.
pub fn plan(ids: &Tensor, experts: usize) -> Result<RoutePlan> {
    let (_, k) = ids.dims2()?;
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
    Ok(RoutePlan {
        ids: ids.clone(),
        order: Tensor::new(order.as_slice(), device)?,
        inverse: Tensor::new(inverse.as_slice(), device)?,
        groups: Groups::new(&offsets, device)?,
        k,
    })
}

/// Softmax over the chosen.
pub fn weights(logits: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let kept = logits.to_dtype(DType::F32)?.gather(ids, 1)?;
    let shifted = kept.broadcast_sub(&kept.max_keepdim(1)?)?.exp()?;
    Ok(shifted.broadcast_div(&shifted.sum_keepdim(1)?)?)
}

/// Gradient by the logits.
pub fn weights_backward(
    weights: &Tensor,
    ids: &Tensor,
    dweights: &Tensor,
    experts: usize,
) -> Result<Tensor> {
    let (t, _) = weights.dims2()?;
    let mean = (weights * dweights)?.sum_keepdim(1)?;
    let dkept = (weights * dweights.broadcast_sub(&mean)?)?;
    let zeros = Tensor::zeros((t, experts), DType::F32, weights.device())?;
    Ok(zeros.scatter_add(ids, &dkept, 1)?)
}
