//! Codes of 8 bits by a map of 256 numbers, composed of candle's operations, so that they run where the tensors are.

use super::Arguments;
use anyhow::{Result, bail, ensure};
use apus_sdk::Op;
use candle_core::{DType, Tensor};

/// Numbers of a map.
const CODES: usize = 256;

pub(super) fn run(op: Op, arguments: &Arguments) -> Result<Tensor> {
    let [x, map] = arguments.tensors()?;
    ensure!(
        map.dtype() == DType::F32 && map.dims() == [CODES],
        "a map is F32[256]"
    );
    let (x, map) = (x.flatten_all()?.contiguous()?, map.contiguous()?);
    match op {
        Op::Quantize => {
            ensure!(
                x.dtype() == DType::F32 && x.elem_count().is_multiple_of(4),
                "F32 and a multiple of four elements are needed"
            );
            pack(&nearest(&x, &map)?)
        }
        Op::Dequantize => {
            ensure!(x.dtype() == DType::U32, "codes are U32");
            Ok(map.index_select(&unpack(&x)?, 0)?)
        }
        _ => bail!("not an operation on codes"),
    }
}

/// The place of the nearest number of a sorted map, by halving; the higher one in the middle between two.
fn nearest(x: &Tensor, map: &Tensor) -> Result<Tensor> {
    let mut below = x.zeros_like()?.to_dtype(DType::U32)?;
    let mut step = CODES / 2;
    while step > 0 {
        let further = below.affine(1.0, step as f64)?;
        let is_further = x.ge(&map.index_select(&further, 0)?)?;
        below = is_further.where_cond(&further, &below)?;
        step /= 2;
    }
    let last = Tensor::full(CODES as u32 - 1, below.shape(), below.device())?;
    let above = below.affine(1.0, 1.0)?.minimum(&last)?;
    let low = map.index_select(&below, 0)?;
    let half = ((map.index_select(&above, 0)? - &low)? * 0.5)?;
    let is_nearer = (x - low)?.ge(&half)?;
    Ok(is_nearer.where_cond(&above, &below)?)
}

/// Four codes in a number, the first in the lowest bits.
fn pack(codes: &Tensor) -> Result<Tensor> {
    let fours = codes.reshape((codes.elem_count() / 4, 4))?;
    let column = |at: usize| fours.narrow(1, at, 1)?.flatten_all()?.contiguous();
    let mut packed = column(3)?;
    for at in [2, 1, 0] {
        packed = (packed.affine(CODES as f64, 0.0)? + column(at)?)?;
    }
    Ok(packed)
}

fn unpack(packed: &Tensor) -> Result<Tensor> {
    let by = Tensor::full(CODES as u32, packed.shape(), packed.device())?;
    let mut left = packed.clone();
    let mut columns = Vec::with_capacity(4);
    for _ in 0..4 {
        let rest = (&left / &by)?;
        columns.push((&left - rest.affine(CODES as f64, 0.0)?)?);
        left = rest;
    }
    Ok(Tensor::stack(&columns, 1)?.flatten_all()?)
}
