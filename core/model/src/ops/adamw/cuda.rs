//! The update as one kernel.

use super::StepConstants;
use crate::ops::cuda::{input, output};
use anyhow::Result;
use apus_kernels::adamw_step;
use apus_sdk::AdamW;
use candle_core::{CudaDevice, Tensor};

/// One update in place.
pub fn step(
    p: &Tensor,
    g: &Tensor,
    m: &Tensor,
    v: &Tensor,
    hyper: &AdamW,
    cuda: &CudaDevice,
) -> Result<()> {
    let n = StepConstants::new(hyper);
    adamw_step {
        p: output(p)?,
        g: input(g)?,
        m: output(m)?,
        v: output(v)?,
        count: p.elem_count(),
        grad_scale: 1.0,
        decay: n.keep,
        beta1: n.beta1,
        beta2: n.beta2,
        step_size: n.step_size,
        sqrt_bc2: n.root_correction,
        eps: n.eps,
    }
    .launch(&cuda.cuda_stream())
}
