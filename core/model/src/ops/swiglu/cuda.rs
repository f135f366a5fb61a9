//! The gradient is written over `gate_up`; a warp for each row sums what the weights' gradient needs.

use super::{Activation, RoutingWeights};
use crate::ops::cuda::{empty, input, output};
use anyhow::{Result, bail, ensure};
use apus_kernels::{swiglu_backward, swiglu_forward};
use candle_core::{CudaDevice, DType, Tensor};

/// The factor inside the sigmoid that the kernels are compiled for.
const ALPHA: f32 = 1.702;

/// The limit of an activation that has kernels.
pub fn limit(activation: Activation) -> Result<f32> {
    match activation {
        Activation::ClampedSwiglu { alpha, limit } if alpha == ALPHA => Ok(limit),
        other => bail!(
            "experts with the activation {other:?} have no CUDA kernel; there is one for ClampedSwiglu with alpha {ALPHA}"
        ),
    }
}

/// The activation.
pub fn forward(gate_up: &Tensor, activation: Activation, cuda: &CudaDevice) -> Result<Tensor> {
    let limit = limit(activation)?;
    let (n, f2) = gate_up.dims2()?;
    let gate_up = gate_up.contiguous()?;
    let h = empty((n, f2 / 2), DType::BF16, cuda)?;
    swiglu_forward {
        h: output(&h)?,
        gate_up: input(&gate_up)?,
        count: n * f2 / 2,
        limit,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(h)
}

/// Gradients by `gate_up`, in its memory, and by the weights.
pub fn backward(
    gate_up: Tensor,
    activation: Activation,
    dh: &Tensor,
    routing: RoutingWeights,
    cuda: &CudaDevice,
) -> Result<(Tensor, Tensor)> {
    let limit = limit(activation)?;
    let ((n, f), (t, k)) = (dh.dims2()?, routing.weights.dims2()?);
    let (_, experts) = routing.by_bias.dims2()?;
    ensure!(
        gate_up.dims() == [n, 2 * f] && n == t * k,
        "swiglu: gate_up {:?}, dh {:?} and weights {:?} do not fit",
        gate_up.dims(),
        dh.dims(),
        routing.weights.dims()
    );
    let (gate_up, dh) = (gate_up.contiguous()?, dh.contiguous()?);
    let by_bias = routing.by_bias.contiguous()?;
    let dweights = empty((t, k), DType::F32, cuda)?;
    swiglu_backward {
        dgate_up: output(&gate_up)?,
        dweights: output(&dweights)?,
        gate_up: input(&gate_up)?,
        dh: input(&dh)?,
        weights: input(routing.weights)?,
        order: input(&routing.plan.order)?,
        ids: input(&routing.plan.ids)?,
        by_bias: input(&by_bias)?,
        rows: n,
        width: f,
        k,
        experts,
        limit,
    }
    .launch(&cuda.cuda_stream())?;
    Ok((gate_up, dweights))
}
