//! Operations that pick and place by index.

use super::{Arguments, exactly, size};
use anyhow::{Result, bail, ensure};
use apus_sdk::Op;
use candle_core::{DType, Tensor};

pub(super) fn run(op: Op, arguments: &Arguments) -> Result<Tensor> {
    let [dim] = exactly(arguments.ints)?;
    let dim = size(dim)?;
    let mut all = arguments.all();
    let (Some(x), Some(index)) = (all.next(), all.next()) else {
        bail!("a tensor and an index are needed");
    };
    ensure!(dim < x.rank(), "there is no dimension {dim}");
    ensure!(
        matches!(index.dtype(), DType::U32 | DType::I64),
        "an index is U32 or I64"
    );
    let (x, index) = (x.contiguous()?, index.contiguous()?);
    within(&index, x.dim(dim)?)?;
    if matches!(op, Op::Gather | Op::IndexSelect) {
        return Ok(match op {
            Op::Gather => x.gather(&index, dim)?,
            _ => x.index_select(&index, dim)?,
        });
    }
    let [_, _, src] = arguments.tensors()?;
    let src = src.contiguous()?;
    Ok(match op {
        Op::Scatter => x.scatter(&index, &src, dim)?,
        Op::ScatterAdd => x.scatter_add(&index, &src, dim)?,
        Op::IndexAdd => x.index_add(&index, &src, dim)?,
        _ => bail!("not an operation by index"),
    })
}

/// On CUDA a wrong index would read or write past the tensor; on the CPU candle takes the greatest u32
/// for no index at all.
fn within(index: &Tensor, len: usize) -> Result<()> {
    if index.elem_count() == 0 {
        return Ok(());
    }
    let greatest = index
        .flatten_all()?
        .max(0)?
        .to_dtype(DType::I64)?
        .to_scalar::<i64>()?;
    ensure!(
        usize::try_from(greatest).is_ok_and(|greatest| greatest < len),
        "index {greatest} is outside a dimension of length {len}"
    );
    Ok(())
}
