//! Packs factors with candle's operations.

use super::{Factors, PackedRange};
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

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
