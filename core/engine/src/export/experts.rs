//! Packs and unpacks the matrices of experts, one expert at a time.

use super::float;
use anyhow::{Context, Result, bail, ensure};
use apus_model::ops::mxfp4;
use apus_model::tensors::TensorSpec;
use apus_model::weights::Directory;
use candle_core::{DType, Device, Tensor};
use half::bf16;
use rayon::prelude::*;
use safetensors::Dtype;

/// Unpacks experts to `[E, in, out]` in bf16. It works on one expert at a time to bound the memory.
pub(super) fn unpack(directory: &Directory, spec: &TensorSpec) -> Result<Tensor> {
    let packed = spec.packed();
    let [blocks, scales] = packed.with_context(|| format!("{} is never packed", spec.name))?;
    let blocks = directory.stored(&blocks.name)?;
    let scales = directory.stored(&scales.name)?;
    let &[e, o, g] = scales.shape() else {
        bail!(
            "{}: shape {:?}, expected [experts, outputs, groups]",
            scales.location(),
            scales.shape()
        )
    };
    ensure!(
        blocks.shape() == [e, o, g, 16]
            && e * o * g > 0
            && (blocks.dtype(), scales.dtype()) == (Dtype::U8, Dtype::U8),
        "{}: blocks {:?} {:?} and scales {:?} {:?} do not fit",
        blocks.location(),
        blocks.dtype(),
        blocks.shape(),
        scales.dtype(),
        scales.shape()
    );
    let mut dense = vec![bf16::ZERO; e * 32 * g * o];
    let (mut packed, mut powers) = (vec![0; o * g * 16], vec![0; o * g]);
    for (expert, dense) in dense.chunks_exact_mut(32 * g * o).enumerate() {
        blocks.read(expert * packed.len(), &mut packed)?;
        scales.read(expert * powers.len(), &mut powers)?;
        let values = mxfp4::decode(&packed, &powers);
        dense.par_chunks_mut(o).enumerate().for_each(|(i, row)| {
            for (out, value) in row.iter_mut().zip(values.iter().skip(i).step_by(32 * g)) {
                *out = bf16::from_f32(*value);
            }
        });
    }
    Ok(Tensor::from_vec(dense, (e, 32 * g, o), &Device::Cpu)?)
}

/// Packs dense experts `[E, in, out]` to blocks and scales, one expert at a time.
pub(super) fn pack(directory: &Directory, name: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    let stored = directory.stored(name)?;
    let &[e, i, o] = stored.shape() else {
        bail!(
            "{}: shape {:?}, expected [experts, inputs, outputs]",
            stored.location(),
            stored.shape()
        )
    };
    let dtype = float(stored)?;
    let mut expert = vec![0; i * o * dtype.size_in_bytes()];
    ensure!(
        e * expert.len() > 0,
        "{}: shape {:?} is empty",
        stored.location(),
        stored.shape()
    );
    let (mut blocks, mut scales) = (Vec::new(), Vec::new());
    for number in 0..e {
        stored.read(number * expert.len(), &mut expert)?;
        let dense = Tensor::from_raw_buffer(&expert, dtype, &[i, o], &Device::Cpu)?;
        let rows = dense.to_dtype(DType::F32)?.t()?.contiguous()?;
        let (b, s) = mxfp4::encode(&rows.flatten_all()?.to_vec1::<f32>()?)?;
        blocks.extend(b);
        scales.extend(s);
    }
    Ok((blocks, scales))
}
