//! See [`crate::ops::adamw`].

use super::launch::{Arg, Grid, f32, launch, long};
use crate::ops::adamw::StepConstants;
use anyhow::Result;
use apus_kernels::ADAMW;
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
    let (n, count) = (StepConstants::new(hyper), p.elem_count());
    let args = [
        f32(p)?,
        f32(g)?,
        f32(m)?,
        f32(v)?,
        long(count),
        Arg::F32(1.0),
        Arg::F32(n.keep),
        Arg::F32(n.beta1),
        Arg::F32(n.beta2),
        Arg::F32(n.step_size),
        Arg::F32(n.root_correction),
        Arg::F32(n.eps),
    ];
    launch(cuda, &ADAMW, "adamw_step", Grid::elements(count), &args)
}
