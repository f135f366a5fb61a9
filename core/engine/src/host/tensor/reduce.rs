//! Operations along a dimension.

use super::{exactly, size};
use anyhow::{Result, bail, ensure};
use apus_sdk::Op;
use candle_core::{D, Tensor};

/// Running sums are taken in blocks of this length: candle's is a product with a square matrix.
const BLOCK: usize = 256;

/// Rows longer than this do not fit candle's sorting kernel.
const LONGEST_SORT_ON_CUDA: usize = 8192;

pub(super) fn run(op: Op, x: &Tensor, ints: &[i64]) -> Result<Tensor> {
    if op == Op::ArgSort {
        let [dim, descending] = exactly(ints)?;
        return argsort(x, within(x, dim)?, descending != 0);
    }
    let [dim] = exactly(ints)?;
    let dim = within(x, dim)?;
    Ok(match op {
        Op::Sum => x.sum_keepdim(dim)?,
        Op::Mean => x.mean_keepdim(dim)?,
        Op::Max => x.max_keepdim(dim)?,
        Op::Min => x.min_keepdim(dim)?,
        Op::ArgMax => x.argmax_keepdim(dim)?,
        Op::ArgMin => x.argmin_keepdim(dim)?,
        Op::Softmax => {
            let e = shifted(x, dim)?.exp()?;
            e.broadcast_div(&e.sum_keepdim(dim)?)?
        }
        Op::LogSoftmax => {
            let shifted = shifted(x, dim)?;
            shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(dim)?.log()?)?
        }
        Op::CumSum => cumsum(x, dim)?,
        _ => bail!("not an operation along a dimension"),
    })
}

fn within(x: &Tensor, dim: i64) -> Result<usize> {
    let dim = size(dim)?;
    ensure!(dim < x.rank(), "there is no dimension {dim}");
    Ok(dim)
}

/// Less its maximum, which is a constant to the gradient: it cancels.
fn shifted(x: &Tensor, dim: usize) -> Result<Tensor> {
    Ok(x.broadcast_sub(&x.max_keepdim(dim)?.detach())?)
}

fn argsort(x: &Tensor, dim: usize, descending: bool) -> Result<Tensor> {
    let last = x.detach().transpose(dim, D::Minus1)?.contiguous()?;
    let places = match x.device().is_cuda() && x.dim(dim)? > LONGEST_SORT_ON_CUDA {
        true => last
            .to_device(&candle_core::Device::Cpu)?
            .arg_sort_last_dim(!descending)?
            .to_device(x.device())?,
        false => last.arg_sort_last_dim(!descending)?,
    };
    Ok(places.transpose(dim, D::Minus1)?.contiguous()?)
}

/// Sums within blocks, then those of whole blocks before, the same way.
fn cumsum(x: &Tensor, dim: usize) -> Result<Tensor> {
    let n = x.dim(dim)?;
    if n <= BLOCK {
        return Ok(x.cumsum(dim)?);
    }
    let last = x.transpose(dim, D::Minus1)?;
    let blocks = n.div_ceil(BLOCK);
    let padded = last
        .pad_with_zeros(D::Minus1, 0, blocks * BLOCK - n)?
        .contiguous()?;
    let mut shape = padded.dims().to_vec();
    shape.pop();
    shape.extend([blocks, BLOCK]);
    let within = padded.reshape(shape.as_slice())?.cumsum(D::Minus1)?;
    let totals = within.narrow(D::Minus1, BLOCK - 1, 1)?.contiguous()?;
    let before = (cumsum(&totals, shape.len() - 2)? - &totals)?;
    let sums = within.broadcast_add(&before)?.reshape(padded.shape())?;
    Ok(sums
        .narrow(D::Minus1, 0, n)?
        .transpose(dim, D::Minus1)?
        .contiguous()?)
}
