//! The moments, then the parameter, each in one pass over memory.

use super::StepConstants;
use anyhow::Result;
use apus_sdk::AdamW;
use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Tensor};
use rayon::prelude::*;

/// One update in place.
pub fn step(p: &Tensor, g: &Tensor, m: &Tensor, v: &Tensor, hyper: &AdamW) -> Result<()> {
    let numbers = StepConstants::new(hyper);
    m.inplace_op2(
        g,
        &Moment {
            beta: numbers.beta1,
            square: false,
        },
    )?;
    v.inplace_op2(
        g,
        &Moment {
            beta: numbers.beta2,
            square: true,
        },
    )?;
    Ok(p.inplace_op3(m, v, &Update(numbers))?)
}

const CHUNK: usize = 1 << 14;

fn target<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
    else {
        candle_core::bail!("adamw: expected contiguous f32");
    };
    Ok(&mut values[start..end])
}

fn source<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
    else {
        candle_core::bail!("adamw: expected contiguous f32");
    };
    Ok(&values[start..end])
}

struct Moment {
    beta: f32,
    square: bool,
}

impl InplaceOp2 for Moment {
    fn name(&self) -> &'static str {
        "adamw moment"
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        dst_l: &Layout,
        g: &CpuStorage,
        g_l: &Layout,
    ) -> candle_core::Result<()> {
        let (m, g, beta) = (target(dst, dst_l)?, source(g, g_l)?, self.beta);
        m.par_chunks_mut(CHUNK)
            .zip(g.par_chunks(CHUNK))
            .for_each(|(m, g)| {
                for (m, &g) in m.iter_mut().zip(g) {
                    *m = beta * *m + (1.0 - beta) * if self.square { g * g } else { g };
                }
            });
        Ok(())
    }
}

struct Update(StepConstants);

impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adamw update"
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        dst_l: &Layout,
        m: &CpuStorage,
        m_l: &Layout,
        v: &CpuStorage,
        v_l: &Layout,
    ) -> candle_core::Result<()> {
        let (p, m, v, n) = (
            target(dst, dst_l)?,
            source(m, m_l)?,
            source(v, v_l)?,
            self.0,
        );
        let chunks = m.par_chunks(CHUNK).zip(v.par_chunks(CHUNK));
        p.par_chunks_mut(CHUNK).zip(chunks).for_each(|(p, (m, v))| {
            for (p, (&m, &v)) in p.iter_mut().zip(m.iter().zip(v)) {
                let denominator = v.sqrt() / n.root_correction + n.eps;
                *p = *p * n.keep - n.step_size * m / denominator;
            }
        });
        Ok(())
    }
}
