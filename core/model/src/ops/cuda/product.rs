//! See [`crate::ops::grouped`]: the product of all groups in one launch, on compute capability 9.0.

use super::card::capability;
use super::launch::{Arg, Grid, b16, empty, int, launch, pointer, u32};
use super::tensor_map::{Boxes, TensorMap};
use crate::ops::Groups;
use crate::ops::grouped::Plus;
use anyhow::{Context, Result};
use apus_kernels::{PRODUCT_HOPPER, product_hopper};
use candle_core::{CudaDevice, DType, Tensor};

/// How the matrices of the groups lie in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// `[G, I, O]`.
    Rows,
    /// `[G, O, I]`, seen transposed.
    Columns,
}

fn lie(w: &Tensor) -> Result<Option<Lie>> {
    Ok(if w.is_contiguous() {
        Some(Lie::Rows)
    } else if w.transpose(1, 2)?.is_contiguous() {
        Some(Lie::Columns)
    } else {
        None
    })
}

/// Fewer rows than this are better served one group after the other.
const LEAST_ROWS: usize = 256;

/// Whether the card and the shapes are those that the kernel is for.
///
/// # Errors
/// The driver failed.
pub fn fits(
    x: &Tensor,
    w: &Tensor,
    groups: &Groups,
    plus: &Plus,
    cuda: &CudaDevice,
) -> Result<bool> {
    let (_, i, o) = w.dims3()?;
    let low = match &plus.low {
        None => true,
        Some(low) => {
            low.w.dim(1)?.is_multiple_of(8) && lie(&low.w)? == lie(w)? && low.x.is_contiguous()
        }
    };
    Ok(capability(cuda)? == (9, 0)
        && x.dtype() == DType::BF16
        && groups.rows() >= LEAST_ROWS
        && groups.count() <= product_hopper::MOST_GROUPS
        && i.is_multiple_of(8)
        && o.is_multiple_of(8)
        && lie(w)?.is_some()
        && low)
}

/// Boxes of the rows of a matrix `[rows, columns]` at the start of `tensor`.
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

/// Boxes of the matrices of all groups, one below the other.
fn matrices(w: &Tensor, lie: Lie) -> Result<TensorMap> {
    let (g, i, o) = w.dims3()?;
    match lie {
        Lie::Rows => map(w, [g * i, o], 64),
        Lie::Columns => map(
            &w.transpose(1, 2)?,
            [g * o, i],
            product_hopper::COLUMNS_A_TILE,
        ),
    }
}

/// The product and what is added to it.
///
/// # Errors
/// The kernel cannot be launched.
pub fn product(
    x: &Tensor,
    w: &Tensor,
    groups: &Groups,
    plus: &Plus,
    cuda: &CudaDevice,
) -> Result<Tensor> {
    let ((n, i), (count, _, o)) = (x.dims2()?, w.dims3()?);
    let x = x.contiguous()?;
    let lie = lie(w)?.context("matrices that lie neither way")?;
    let out = empty((n, o), DType::BF16, cuda)?;
    let (a, b) = (map(&x, [n, i], 64)?, matrices(w, lie)?);
    let (low, a_low, b_low) = match &plus.low {
        None => (0, a, b),
        Some(low) => {
            let rank = low.w.dim(1)?;
            (rank, map(&low.x, [n, rank], 64)?, matrices(&low.w, lie)?)
        }
    };
    let out_map = map(&out, [n, o], 64)?;
    let args = [
        b16(&out)?,
        plus.bias.as_ref().map_or(Ok(Arg::Pointer(0)), b16)?,
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
    let kernel = match lie {
        Lie::Rows => "product_nn",
        Lie::Columns => "product_nt",
    };
    let grid = Grid::new([processors(cuda)?, 1, 1], product_hopper::THREADS)
        .with_shared(product_hopper::SHARED_BYTES);
    launch(cuda, &PRODUCT_HOPPER, kernel, grid, &args)?;
    Ok(out)
}

/// Multiprocessors of the card.
fn processors(cuda: &CudaDevice) -> Result<usize> {
    use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let context = cuda.cuda_stream().context().clone();
    Ok(usize::try_from(
        context.attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
    )?)
}
