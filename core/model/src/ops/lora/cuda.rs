//! Narrow products, up to a rank of 64, have their own kernels.

use super::{Factors, PackedRange, RowFactors, Strides};
use crate::ops::Groups;
use crate::ops::cuda::{empty, input, optional_input, output};
use crate::ops::router::RoutePlan;
use anyhow::{Result, ensure};
use apus_kernels::{
    In, lora_down, lora_gradient, lora_pack_a, lora_pack_b, lora_rows_down, lora_rows_index,
    lora_rows_term, lora_rows_up, sum_rows,
};
use candle_core::{CudaDevice, DType, Tensor};

/// Whether kernels take this padded rank and these widths.
pub fn fits(pitch: usize, width: usize) -> bool {
    pitch.is_multiple_of(8) && (8..=64).contains(&pitch) && width.is_multiple_of(8)
}

/// `x a^T`.
pub fn down(x: &Tensor, a: &Tensor, groups: &Groups, cuda: &CudaDevice) -> Result<Tensor> {
    let (count, pitch, _) = a.dims3()?;
    let offsets = Some(input(groups.offsets())?);
    run_down(x, a, (offsets, count), pitch, cuda)
}

/// `x w^T` for a matrix `[O, I]` of few outputs.
pub fn narrow(x: &Tensor, w: &Tensor, cuda: &CudaDevice) -> Result<Tensor> {
    let (o, _) = w.dims2()?;
    run_down(x, &w.contiguous()?, (None, 1), o, cuda)
}

/// Rows `[N, K]` to `[N, pitch]`, with the offsets of `count` groups or none.
fn run_down(
    x: &Tensor,
    a: &Tensor,
    (offsets, groups): (Option<In<u32>>, usize),
    pitch: usize,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let (n, k) = x.dims2()?;
    let x = x.contiguous()?;
    let z = empty((n, pitch), DType::BF16, cuda)?;
    lora_down {
        z: output(&z)?,
        x: input(&x)?,
        a: input(a)?,
        offsets,
        groups,
        rows: n,
        k,
        eights: pitch / 8,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(z)
}

/// The number of blocks that keeps a card busy while they read.
const BUSY: usize = 512;

/// Sums over rows, in the layout that `strides` describe.
pub fn gradient(
    x: &Tensor,
    z: &Tensor,
    groups: &Groups,
    rank: usize,
    strides: Strides,
    scale: f64,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let ((n, width), (_, pitch)) = (x.dims2()?, z.dims2()?);
    let (x, z, count) = (x.contiguous()?, z.contiguous()?, groups.count());
    let blocks = width.div_ceil(64) * count;
    let splits = BUSY.div_ceil(blocks).clamp(1, (n / count / 256).max(1));
    let numbers = count * width * rank;
    let parts = empty((splits, numbers), DType::F32, cuda)?;
    lora_gradient {
        out: output(&parts)?,
        x: input(&x)?,
        z: input(&z)?,
        offsets: input(groups.offsets())?,
        width,
        rank,
        group_stride: strides.group,
        i_stride: strides.column,
        r_stride: strides.rank,
        split_stride: numbers,
        scale: scale as f32,
        groups: count,
        splits,
        eights: pitch / 8,
    }
    .launch(&cuda.cuda_stream())?;
    if splits == 1 {
        return Ok(parts.squeeze(0)?);
    }
    let out = empty(numbers, DType::F32, cuda)?;
    sum_rows {
        out: output(&out)?,
        x: input(&parts)?,
        rows: splits,
        width: numbers,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(out)
}

/// Whether kernels pack factors of these ranges and this input width.
pub fn packs(ranges: &[PackedRange], inputs: usize) -> bool {
    fits(pitch(ranges), inputs) && ranges.iter().all(|range| range.outputs % 8 == 0)
}

/// The sum of the ranks, padded.
fn pitch(ranges: &[PackedRange]) -> usize {
    let ranks: usize = ranges.iter().map(|range| range.rank).sum();
    ranks.next_multiple_of(8)
}

/// Factors of all modules side by side: A `[G, P, I]`, B `[G, O, P]` and its transpose. The last module's range gets the rows
/// that pad A.
pub fn pack(
    modules: &[(usize, Option<Factors>)],
    ranges: &mut [PackedRange],
    [groups, inputs]: [usize; 2],
    scale: f64,
    cuda: &CudaDevice,
) -> Result<[Tensor; 3]> {
    let pitch = pitch(ranges);
    let outputs: usize = ranges.iter().map(|range| range.outputs).sum();
    let a = empty((groups, pitch, inputs), DType::BF16, cuda)?;
    let b = empty((groups, outputs, pitch), DType::BF16, cuda)?;
    let b_transposed = empty((groups, pitch, outputs), DType::BF16, cuda)?;
    let last = ranges.iter().rposition(|range| range.rank > 0);
    for (index, (range, (_, factors))) in ranges.iter_mut().zip(modules).enumerate() {
        if Some(index) == last {
            range.a_rows = pitch - range.first_rank;
        }
        if let Some(factors) = factors {
            pack_a(&a, &factors.a, *range, cuda)?;
        }
        let factors = factors.as_ref().map(|factors| &factors.b);
        pack_b([&b, &b_transposed], factors, scale, *range, cuda)?;
    }
    Ok([a, b, b_transposed])
}

/// Writes A f32 `[G, rank, K]` into its rows of `out`.
fn pack_a(out: &Tensor, a: &Tensor, range: PackedRange, cuda: &CudaDevice) -> Result<()> {
    let (count, pitch, k) = out.dims3()?;
    let a = a.contiguous()?;
    ensure!(
        a.elem_count() == count * range.rank * k,
        "lora: A {:?} for {:?}",
        a.dims(),
        out.dims()
    );
    lora_pack_a {
        out: output(out)?,
        a: input(&a)?,
        groups: count,
        rank: range.rank,
        rows: range.a_rows,
        k,
        pitch,
        first: range.first_rank,
    }
    .launch(&cuda.cuda_stream())
}

/// Writes B f32 `[W, rank, G]` times `scale` into its outputs of B `[G, O, P]` and of its transpose `[G, P, O]`; zeros without B.
fn pack_b(
    [all_b, all_b_transposed]: [&Tensor; 2],
    b: Option<&Tensor>,
    scale: f64,
    range: PackedRange,
    cuda: &CudaDevice,
) -> Result<()> {
    let (count, all, pitch) = all_b.dims3()?;
    let b = b.map(Tensor::contiguous).transpose()?;
    let elements = b.as_ref().map_or(0, Tensor::elem_count);
    ensure!(
        elements == count * range.rank * range.outputs,
        "lora: B of {elements} numbers for {range:?}"
    );
    lora_pack_b {
        wide: output(all_b)?,
        tall: output(all_b_transposed)?,
        b: optional_input(b.as_ref())?,
        scale: scale as f32,
        groups: count,
        rank: range.rank,
        width: range.outputs,
        pitch,
        first: range.first_rank,
        all,
        at: range.first_output,
    }
    .launch(&cuda.cuda_stream())
}

/// Adds to rows of `y`, in place; see [`super::rows::add_rows`].
pub fn add_rows(
    y: &Tensor,
    x: &Tensor,
    index: &Tensor,
    factors: &RowFactors,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let y = y.contiguous()?;
    let low = empty((x.dim(0)?, factors.a.dim(1)?), DType::F32, cuda)?;
    add_rows_into(&y, &low, &x.contiguous()?, index, factors, cuda)?;
    Ok(y)
}

/// [`super::rows::add_rows`] in place, with `low` `[N, P]` f32 for what is between the factors.
pub fn add_rows_into(
    y: &Tensor,
    low: &Tensor,
    x: &Tensor,
    index: &Tensor,
    factors: &RowFactors,
    cuda: &CudaDevice,
) -> Result<()> {
    let (groups, rank, outputs) = down_rows(y, low, x, index, factors, cuda)?;
    lora_rows_up {
        y: output(y)?,
        z: input(low)?,
        b: input(&factors.b)?,
        index: input(index)?,
        groups,
        width: outputs,
        rank,
        rows: y.dim(0)?,
    }
    .launch(&cuda.cuda_stream())
}

/// [`super::rows::term_of_rows`].
pub fn term_of_rows(
    y: &Tensor,
    low: &Tensor,
    x: &Tensor,
    index: &Tensor,
    factors: &RowFactors,
    cuda: &CudaDevice,
) -> Result<()> {
    let (groups, rank, outputs) = down_rows(y, low, x, index, factors, cuda)?;
    lora_rows_term {
        y: output(y)?,
        z: input(low)?,
        b: input(&factors.b)?,
        index: input(index)?,
        groups,
        width: outputs,
        rank,
        rows: y.dim(0)?,
    }
    .launch(&cuda.cuda_stream())
}

/// Takes rows of `x` through A to `low`; several neighbouring rows may have one row of `x`. Returns the numbers of updates, ranks and
/// outputs.
fn down_rows(
    y: &Tensor,
    low: &Tensor,
    x: &Tensor,
    index: &Tensor,
    factors: &RowFactors,
    cuda: &CudaDevice,
) -> Result<(usize, usize, usize)> {
    let ((rows, outputs), (shared, inputs)) = (y.dims2()?, x.dims2()?);
    let (groups, rank, _) = factors.a.dims3()?;
    ensure!(
        rank % 8 == 0
            && inputs % 8 == 0
            && factors.a.dim(2)? == inputs
            && factors.b.dims() == [groups, outputs, rank]
            && low.dims() == [rows, rank]
            && shared > 0
            && rows % shared == 0
            && index.dims() == [rows],
        "updates by row on a card: rows {:?} to {:?}, A {:?}, B {:?} and room {:?} do not fit; the rank and the width of the input \
         are multiples of 8",
        x.dims(),
        y.dims(),
        factors.a.dims(),
        factors.b.dims(),
        low.dims()
    );
    lora_rows_down {
        z: output(low)?,
        x: input(x)?,
        a: input(&factors.a)?,
        index: input(index)?,
        groups,
        width: inputs,
        rank,
        share: rows / shared,
        rows,
    }
    .launch(&cuda.cuda_stream())?;
    Ok((groups, rank, outputs))
}

/// See [`super::rows::of_experts`].
pub fn of_experts(adapters: &Tensor, plan: &RoutePlan, cuda: &CudaDevice) -> Result<Tensor> {
    let index = empty(plan.order.dims(), DType::U32, cuda)?;
    lora_rows_index {
        index: output(&index)?,
        adapters: input(adapters)?,
        order: input(&plan.order)?,
        ids: input(&plan.ids)?,
        rows: plan.order.elem_count(),
        k: plan.k,
        experts: plan.groups.count(),
    }
    .launch(&cuda.cuda_stream())?;
    Ok(index)
}

/// [`super::rows::of_pairs`].
pub fn of_pairs(
    index: &Tensor,
    adapters: &Tensor,
    ids: &Tensor,
    order: &Tensor,
    experts: usize,
    cuda: &CudaDevice,
) -> Result<()> {
    lora_rows_index {
        index: output(index)?,
        adapters: input(adapters)?,
        order: input(order)?,
        ids: input(ids)?,
        rows: index.elem_count(),
        k: ids.dim(1)?,
        experts,
    }
    .launch(&cuda.cuda_stream())
}
