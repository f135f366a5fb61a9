//! Sums of blocks, then their sum, without atomics.

use crate::ops::cuda::{empty, input, output};
use anyhow::Result;
use apus_kernels::{ELEMENTS_PER_BLOCK, Out, bit_sum_f32, square_sum_f32, sum_f64};
use candle_core::{CudaDevice, DType, Tensor};

/// Most partial sums a tensor is split into.
const BLOCKS: usize = 1024;

fn blocks(tensor: &Tensor) -> usize {
    tensor.elem_count().div_ceil(ELEMENTS_PER_BLOCK).min(BLOCKS)
}

/// Sum of squares of f32 tensors, in f64; waits for the device once.
pub fn square_sum(tensors: &[Tensor], cuda: &CudaDevice) -> Result<f64> {
    let count: usize = tensors.iter().map(blocks).sum();
    let (partial, sum) = (empty(count, DType::F64, cuda)?, empty(1, DType::F64, cuda)?);
    let start: Out<f64> = output(&partial)?;
    let mut done = 0;
    for tensor in tensors {
        let (tensor, blocks) = (tensor.contiguous()?, blocks(tensor));
        square_sum_f32 {
            partial: start.offset(done),
            x: input(&tensor)?,
            count: tensor.elem_count(),
            blocks,
        }
        .launch(&cuda.cuda_stream())?;
        done += blocks;
    }
    sum_f64 {
        out: output(&sum)?,
        x: input(&partial)?,
        count,
    }
    .launch(&cuda.cuda_stream())?;
    Ok(sum.to_vec1::<f64>()?[0])
}

/// Wrapping sum of scrambled bits of each tensor; waits for the device once.
pub fn bit_sums(tensors: &[Tensor], cuda: &CudaDevice) -> Result<Vec<u64>> {
    let counts: Vec<usize> = tensors.iter().map(blocks).collect();
    let partial = empty(2 * counts.iter().sum::<usize>(), DType::U32, cuda)?;
    let start: Out<u32> = output(&partial)?;
    let mut done = 0;
    for (tensor, &blocks) in tensors.iter().zip(&counts) {
        let tensor = tensor.contiguous()?;
        bit_sum_f32 {
            partial: start.offset(2 * done),
            x: input(&tensor)?,
            count: tensor.elem_count(),
            blocks,
        }
        .launch(&cuda.cuda_stream())?;
        done += blocks;
    }
    let halves = partial.to_vec1::<u32>()?;
    let mut halves = halves
        .chunks_exact(2)
        .map(|half| u64::from(half[0]) | u64::from(half[1]) << 32);
    let sums = counts
        .iter()
        .map(|&blocks| halves.by_ref().take(blocks).fold(0, u64::wrapping_add));
    Ok(sums.collect())
}
