//! The product of all groups in one launch, on compute capability 9.0.

use super::Addends;
use crate::ops::Groups;
use crate::ops::cuda::{capability, empty, input, optional_input, output, pointer};
use anyhow::{Context, Result};
use apus_kernels::{
    Boxes, MOST_PRODUCT_GROUPS, PRODUCT_COLUMNS_A_TILE, TensorMap, product_nn, product_nt,
};
use candle_core::{CudaDevice, DType, Tensor};

/// The memory layout of the matrices of the groups.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `[G, I, O]`.
    RowMajor,
    /// `[G, O, I]`, used through a transposed view.
    ColumnMajor,
}

fn layout(w: &Tensor) -> Result<Option<Layout>> {
    Ok(if w.is_contiguous() {
        Some(Layout::RowMajor)
    } else if w.transpose(1, 2)?.is_contiguous() {
        Some(Layout::ColumnMajor)
    } else {
        None
    })
}

/// With fewer rows than this, one product for each group is faster.
const LEAST_ROWS: usize = 256;

/// Whether the kernel takes these shapes on this card.
pub fn fits(
    x: &Tensor,
    w: &Tensor,
    groups: &Groups,
    addends: &Addends,
    cuda: &CudaDevice,
) -> Result<bool> {
    let (_, i, o) = w.dims3()?;
    let low = match &addends.low_rank {
        None => true,
        Some(low) => {
            low.w.dim(1)?.is_multiple_of(8)
                && layout(&low.w)? == layout(w)?
                && low.x.is_contiguous()
        }
    };
    Ok(capability(cuda)? == (9, 0)
        && x.dtype() == DType::BF16
        && groups.rows() >= LEAST_ROWS
        && groups.count() <= MOST_PRODUCT_GROUPS
        && i.is_multiple_of(8)
        && o.is_multiple_of(8)
        && layout(w)?.is_some()
        && low)
}

/// Describes the boxes of a matrix `[rows, columns]` at the start of `tensor`.
fn map(tensor: &Tensor, [rows, columns]: [usize; 2], box_rows: usize) -> Result<TensorMap> {
    TensorMap::bf16(&Boxes {
        pointer: pointer(tensor, DType::BF16)?,
        rows,
        columns,
        pitch: columns,
        box_rows,
        box_columns: 64,
    })
}

/// Describes the boxes of the matrices of all groups, one below the other.
fn matrices(w: &Tensor, layout: Layout) -> Result<TensorMap> {
    let (g, i, o) = w.dims3()?;
    match layout {
        Layout::RowMajor => map(w, [g * i, o], 64),
        Layout::ColumnMajor => map(&w.transpose(1, 2)?, [g * o, i], PRODUCT_COLUMNS_A_TILE),
    }
}

/// Computes the product and adds the addends.
pub fn product(
    x: &Tensor,
    w: &Tensor,
    groups: &Groups,
    addends: &Addends,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let ((n, i), (count, _, o)) = (x.dims2()?, w.dims3()?);
    let x = x.contiguous()?;
    let layout = layout(w)?.context("matrices that are neither row-major nor column-major")?;
    let out = empty((n, o), DType::BF16, cuda)?;
    let (a, b) = (map(&x, [n, i], 64)?, matrices(w, layout)?);
    let (low, a_low, b_low) = match &addends.low_rank {
        None => (0, a, b),
        Some(low) => {
            let rank = low.w.dim(1)?;
            (rank, map(&low.x, [n, rank], 64)?, matrices(&low.w, layout)?)
        }
    };
    let stream = cuda.cuda_stream();
    match layout {
        Layout::RowMajor => product_nn {
            out: output(&out)?,
            bias: optional_input(addends.bias.as_ref())?,
            offsets: input(groups.offsets())?,
            groups: count,
            n: o,
            k: i,
            low,
            a,
            b,
            a_low,
            b_low,
            out_map: map(&out, [n, o], 64)?,
            processors: processors(cuda)?,
        }
        .launch(&stream)?,
        Layout::ColumnMajor => product_nt {
            out: output(&out)?,
            bias: optional_input(addends.bias.as_ref())?,
            offsets: input(groups.offsets())?,
            groups: count,
            n: o,
            k: i,
            low,
            a,
            b,
            a_low,
            b_low,
            out_map: map(&out, [n, o], 64)?,
            processors: processors(cuda)?,
        }
        .launch(&stream)?,
    }
    Ok(out)
}

/// The number of multiprocessors of the card.
fn processors(cuda: &CudaDevice) -> Result<usize> {
    use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let context = cuda.cuda_stream().context().clone();
    Ok(usize::try_from(
        context.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
    )?)
}
