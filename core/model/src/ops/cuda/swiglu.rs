//! See [`crate::ops::swiglu`].

use super::launch::{Arg, Grid, b16, empty, f32, int, launch, long, u32};
use crate::ops::swiglu::{Activation, RoutingWeights};
use anyhow::{Result, bail, ensure};
use apus_kernels::SWIGLU;
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
    let (gate_up, count) = (gate_up.contiguous()?, n * f2 / 2);
    let h = empty((n, f2 / 2), DType::BF16, cuda)?;
    let args = [b16(&h)?, b16(&gate_up)?, long(count), Arg::F32(limit)];
    launch(
        cuda,
        &SWIGLU,
        "swiglu_forward",
        Grid::elements(count),
        &args,
    )?;
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
    let args = [
        b16(&gate_up)?,
        f32(&dweights)?,
        b16(&gate_up)?,
        b16(&dh)?,
        f32(routing.weights)?,
        u32(&routing.plan.order)?,
        u32(&routing.plan.ids)?,
        b16(&by_bias)?,
        long(n),
        int(f)?,
        int(k)?,
        int(experts)?,
        Arg::F32(limit),
    ];
    launch(cuda, &SWIGLU, "swiglu_backward", Grid::rows(n), &args)?;
    Ok((gate_up, dweights))
}
