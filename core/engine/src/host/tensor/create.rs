//! New tensors, other element types, elements to the host's memory.

use super::{candle_dtype, exactly, size, sizes};
use anyhow::{Result, bail, ensure};
use apus_model::ops::fill;
use apus_sdk::Op;
use candle_core::{DType, Tensor, WithDType};

pub(super) fn convert(op: Op, x: &Tensor, ints: &[i64]) -> Result<Tensor> {
    match op {
        Op::Detach => Ok(x.detach()),
        Op::Cast => {
            let [dtype] = exactly(ints)?;
            let dtype = candle_dtype(dtype)?;
            match (x.dtype(), dtype) {
                (from, DType::U8) if from != DType::U8 => Ok(x.ne(0f64)?),
                _ => Ok(x.to_dtype(dtype)?),
            }
        }
        _ => bail!("not a conversion"),
    }
}

pub(super) fn run(op: Op, beside: &Tensor, ints: &[i64], floats: &[f64]) -> Result<Tensor> {
    let device = beside.device();
    match (op, ints) {
        (Op::Full, [dtype, shape @ ..]) => {
            let ([value], dtype) = (exactly(floats)?, candle_dtype(*dtype)?);
            let shape = sizes(shape)?;
            if value == 0.0 {
                return Ok(Tensor::zeros(shape, dtype, device)?);
            }
            Ok(match dtype {
                DType::U32 => Tensor::full(value as u32, shape, device)?,
                DType::I64 => Tensor::full(value as i64, shape, device)?,
                DType::U8 => Tensor::full(1u8, shape, device)?,
                dtype => Tensor::full(value as f32, shape, device)?.to_dtype(dtype)?,
            })
        }
        (Op::Arange, &[dtype, len]) => {
            let [start, step] = exactly(floats)?;
            let values: Vec<f64> = (0..size(len)?).map(|i| start + step * i as f64).collect();
            let dtype = candle_dtype(dtype)?;
            // Not by way of f32, which holds no large whole number exactly.
            Ok(match dtype {
                DType::U32 => Tensor::new(whole::<u32>(&values)?, device)?,
                DType::I64 => Tensor::new(whole::<i64>(&values)?, device)?,
                _ => {
                    let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
                    Tensor::new(values, device)?.to_dtype(dtype)?
                }
            })
        }
        (Op::Rand | Op::Randn, [seed, stream, shape @ ..]) => {
            let [a, b] = exactly(floats)?;
            let place = (seed.cast_unsigned(), stream.cast_unsigned());
            let shape = sizes(shape)?;
            match op {
                Op::Rand => fill::uniform(shape, (a as f32, b as f32), place, device),
                _ => Ok((fill::normal(shape, b as f32, place, DType::F32, device)? + a)?),
            }
        }
        _ => bail!("not a way to make a tensor from these numbers: {ints:?}"),
    }
}

fn whole<T: TryFrom<i64>>(values: &[f64]) -> Result<Vec<T>> {
    let convert = |&value: &f64| match T::try_from(value as i64) {
        Ok(whole) => Ok(whole),
        Err(_) => bail!("{value} is no whole number of that type"),
    };
    values.iter().map(convert).collect()
}

/// Writes the elements' bytes to `out`.
pub(super) fn download(x: &Tensor, out: &mut [u8]) -> Result<()> {
    let flat = x.flatten_all()?;
    match x.dtype() {
        DType::F32 => bytes(&flat.to_vec1::<f32>()?, out),
        DType::I64 => bytes(&flat.to_vec1::<i64>()?, out),
        DType::U32 => bytes(&flat.to_vec1::<u32>()?, out),
        DType::U8 => bytes(&flat.to_vec1::<u8>()?, out),
        DType::BF16 => bytes(&flat.to_vec1::<half::bf16>()?, out),
        other => bail!("elements of {other:?} cannot be read"),
    }
}

fn bytes<T: WithDType>(values: &[T], out: &mut [u8]) -> Result<()> {
    let size = size_of_val(values);
    ensure!(out.len() == size, "{size} bytes do not fit {}", out.len());
    // SAFETY: numbers without padding; both ranges are `size` bytes and do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(values.as_ptr().cast::<u8>(), out.as_mut_ptr(), size);
    }
    Ok(())
}
