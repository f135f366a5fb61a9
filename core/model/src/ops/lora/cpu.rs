//! Packs factors with candle's operations; updates by row.

use super::{Factors, NO_UPDATE, PackedRange, RowFactors};
use crate::ops::router::RoutePlan;
use crate::ops::simd::dot;
use crate::ops::{copy, host};
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

/// See [`super::rows::add_rows_into`].
pub fn add_rows_into(
    y: &Tensor,
    _low: &Tensor,
    x: &Tensor,
    index: &Tensor,
    factors: &RowFactors,
) -> Result<()> {
    Ok(y.slice_set(&add_rows(y, x, index, factors)?, 0, 0)?)
}

/// See [`super::rows::term_of_rows`].
pub fn term_of_rows(
    y: &Tensor,
    _low: &Tensor,
    x: &Tensor,
    index: &Tensor,
    factors: &RowFactors,
) -> Result<()> {
    let ((rows, _), (shared, inputs)) = (y.dims2()?, x.dims2()?);
    let share = rows / shared.max(1);
    let x = x.unsqueeze(1)?.broadcast_as((shared, share, inputs))?;
    let x = x.reshape((rows, inputs))?;
    let term = add_rows(&y.zeros_like()?, &x, index, factors)?;
    Ok(y.slice_set(&term, 0, 0)?)
}

/// See [`super::rows::of_pairs`].
pub fn of_pairs(
    index: &Tensor,
    adapters: &Tensor,
    ids: &Tensor,
    _order: &Tensor,
    experts: usize,
) -> Result<()> {
    let adapters: Vec<u32> = adapters.to_vec1()?;
    let ids: Vec<Vec<u32>> = ids.to_vec2()?;
    let pairs = adapters.iter().zip(ids).flat_map(|(&adapter, ids)| {
        ids.into_iter().map(move |id| match adapter {
            NO_UPDATE => NO_UPDATE,
            adapter => adapter * experts as u32 + id,
        })
    });
    let pairs: Vec<u32> = pairs.collect();
    copy::from_host(index, &pairs)
}
