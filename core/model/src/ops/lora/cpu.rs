//! Packs factors with candle's operations; updates by row.

use super::{Factors, NO_UPDATE, PackedRange, RowFactors};
use crate::ops::host;
use crate::ops::router::RoutePlan;
use crate::ops::simd::dot;
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// Factors of all modules side by side: A `[G, P, I]`, B `[G, O, P]` and its transpose.
pub fn pack(
    modules: &[(usize, Option<Factors>)],
    ranges: &[PackedRange],
    device: &Device,
    [groups, inputs]: [usize; 2],
    scale: f64,
    dtype: DType,
) -> Result<[Tensor; 3]> {
    let ranks: usize = ranges.iter().map(|range| range.rank).sum();
    let (mut rows, mut columns) = (Vec::new(), Vec::new());
    for (range, (width, factors)) in ranges.iter().zip(modules) {
        let Some(Factors { a, b }) = factors else {
            columns.push(Tensor::zeros((groups, *width, ranks), DType::F32, device)?);
            continue;
        };
        ensure!(
            b.dims() == [*width, range.rank * groups],
            "lora: A {:?} and B {:?} do not fit",
            a.dims(),
            b.dims()
        );
        rows.push(a.reshape((groups, range.rank, inputs))?);
        let wide = b
            .reshape((*width, range.rank, groups))?
            .permute((2, 0, 1))?
            .contiguous()?;
        let wide = (wide * scale)?;
        let behind = ranks - range.first_rank - range.rank;
        columns.push(wide.pad_with_zeros(2, range.first_rank, behind)?);
    }
    let b = Tensor::cat(&columns, 1)?.to_dtype(dtype)?;
    let b_transposed = b.transpose(1, 2)?.contiguous()?;
    Ok([Tensor::cat(&rows, 1)?.to_dtype(dtype)?, b, b_transposed])
}

/// Each row by itself, so that it does not depend on the others.
pub fn add_rows(y: &Tensor, x: &Tensor, index: &Tensor, factors: &RowFactors) -> Result<Tensor> {
    let ((n, outputs), inputs) = (y.dims2()?, x.dim(1)?);
    let (count, rank, _) = factors.a.dims3()?;
    let index = index.to_vec1::<u32>()?;
    let beyond = index
        .iter()
        .find(|&&at| at != NO_UPDATE && at as usize >= count);
    ensure!(
        beyond.is_none(),
        "updates by row: update {beyond:?} of {count}"
    );
    host::with2(y, x, |y, x| {
        host::with2(&factors.a, &factors.b, |a, b| {
            let mut out = y.to_vec();
            let rows = out.par_chunks_mut(outputs).zip(x.par_chunks(inputs));
            rows.zip(&index).for_each(|((out, x), &at)| {
                if at == NO_UPDATE {
                    return;
                }
                let a = a[at as usize * rank * inputs..].chunks(inputs);
                let low: Vec<f32> = a.take(rank).map(|a| dot(a, x)).collect();
                let b = b[at as usize * outputs * rank..].chunks(rank);
                for (out, b) in out.iter_mut().zip(b) {
                    *out += dot(b, &low);
                }
            });
            Ok(host::f32s(out, (n, outputs)))
        })
    })
}

/// See [`super::rows::of_experts`].
pub fn of_experts(adapters: &Tensor, plan: &RoutePlan) -> Result<Tensor> {
    let experts = plan.groups.count() as u32;
    let adapters = adapters.to_vec1::<u32>()?;
    let ids = plan.ids.flatten_all()?.to_vec1::<u32>()?;
    let pairs = plan.order.to_vec1::<u32>()?.into_iter();
    let index = pairs.map(|pair| match adapters[pair as usize / plan.k] {
        NO_UPDATE => NO_UPDATE,
        adapter => adapter * experts + ids[pair as usize],
    });
    let index: Vec<u32> = index.collect();
    Ok(Tensor::new(index.as_slice(), plan.order.device())?)
}
