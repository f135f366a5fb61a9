//! See [`crate::ops::grouped`]: the product of all groups in one launch, on compute capability 9.0.

use super::card::capability;
use super::launch::{Arg, Grid, b16, empty, int, launch, pointer, u32};
use super::tensor_map::{Boxes, TensorMap};
use crate::ops::Groups;
use crate::ops::grouped::Addends;
use anyhow::{Context, Result};
use apus_kernels::{PRODUCT_HOPPER, product_hopper};
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
        && groups.count() <= product_hopper::MOST_GROUPS
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
        Layout::ColumnMajor => map(
            &w.transpose(1, 2)?,
            [g * o, i],
            product_hopper::COLUMNS_A_TILE,
        ),
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
    let out_map = map(&out, [n, o], 64)?;
    let args = [
        b16(&out)?,
        addends.bias.as_ref().map_or(Ok(Arg::Pointer(0)), b16)?,
        u32(groups.offsets())?,
        int(count)?,
        int(o)?,
        int(i)?,
        int(low)?,
        Arg::TensorMap(&a),
        Arg::TensorMap(&b),
        Arg::TensorMap(&a_low),
        Arg::TensorMap(&b_low),
        Arg::TensorMap(&out_map),
    ];
    let kernel = match layout {
        Layout::RowMajor => "product_nn",
        Layout::ColumnMajor => "product_nt",
    };
    let grid = Grid::new([processors(cuda)?, 1, 1], product_hopper::THREADS)
        .with_shared(product_hopper::SHARED_BYTES);
    launch(cuda, &PRODUCT_HOPPER, kernel, grid, &args)?;
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
