//! See [`crate::ops::reduce`].

use super::launch::{Arg, Grid, empty, f32, launch, long, pointer};
use anyhow::Result;
use apus_kernels::{ELEMENTS_PER_BLOCK, REDUCE};
use candle_core::{CudaDevice, DType, Tensor};

/// Most partial sums a tensor is split into.
const BLOCKS: usize = 1024;
const F64: u64 = 8;

fn blocks(tensor: &Tensor) -> usize {
    tensor.elem_count().div_ceil(ELEMENTS_PER_BLOCK).min(BLOCKS)
}

/// Sum of squares of f32 tensors, in f64; waits for the device once.
pub fn square_sum(tensors: &[Tensor], cuda: &CudaDevice) -> Result<f64> {
    let count: usize = tensors.iter().map(blocks).sum();
    let (partial, sum) = (empty(count, DType::F64, cuda)?, empty(1, DType::F64, cuda)?);
    let start = pointer(&partial, DType::F64)?;
    let mut done = 0;
    for tensor in tensors {
        let (tensor, blocks) = (tensor.contiguous()?, blocks(tensor));
        let args = [
            Arg::Pointer(start + done as u64 * F64),
            f32(&tensor)?,
            long(tensor.elem_count()),
        ];
        let grid = Grid::new([blocks, 1, 1], 256);
        launch(cuda, &REDUCE, "square_sum_f32", grid, &args)?;
        done += blocks;
    }
    let args = [
        Arg::Pointer(pointer(&sum, DType::F64)?),
        Arg::Pointer(start),
        long(count),
    ];
    launch(cuda, &REDUCE, "sum_f64", Grid::new([1, 1, 1], 256), &args)?;
    Ok(sum.to_vec1::<f64>()?[0])
}
