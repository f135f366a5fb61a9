//! Expert matrices between their dense and their packed form, an expert at a time.

use super::float;
use crate::ops::mxfp4;
use crate::weights::Directory;
use anyhow::{Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use half::bf16;
use rayon::prelude::*;

/// Packed experts as `[E, in, out]` bf16, one expert at a time to bound the memory.
pub(super) fn unpack(directory: &Directory, name: &str) -> Result<Tensor> {
    directory.view(&format!("{name}_blocks"), |blocks| {
        directory.view(&format!("{name}_scales"), |scales| {
            let &[e, o, g] = scales.shape() else {
                bail!(
                    "shape {:?}, expected [experts, outputs, groups]",
                    scales.shape()
                )
            };
            ensure!(
                blocks.shape() == [e, o, g, 16] && e * o * g > 0,
                "blocks {:?} and scales {:?} do not fit",
                blocks.shape(),
                scales.shape()
            );
            let mut dense = vec![bf16::ZERO; e * 32 * g * o];
            let packed = blocks.data().chunks_exact(o * g * 16);
            for ((dense, blocks), scales) in dense
                .chunks_exact_mut(32 * g * o)
                .zip(packed)
                .zip(scales.data().chunks_exact(o * g))
            {
                let values = mxfp4::decode(blocks, scales);
                dense.par_chunks_mut(o).enumerate().for_each(|(i, row)| {
                    for (out, value) in row.iter_mut().zip(values.iter().skip(i).step_by(32 * g)) {
                        *out = bf16::from_f32(*value);
                    }
                });
            }
            Ok(Tensor::from_vec(dense, (e, 32 * g, o), &Device::Cpu)?)
        })
    })
}

/// Dense experts `[E, in, out]` as blocks and scales, one expert at a time.
pub(super) fn pack(directory: &Directory, name: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    directory.view(name, |view| {
        let &[e, i, o] = view.shape() else {
            bail!(
                "shape {:?}, expected [experts, inputs, outputs]",
                view.shape()
            )
        };
        ensure!(e * i * o > 0, "shape {:?} is empty", view.shape());
        let dtype = float(view.dtype())?;
        let (mut blocks, mut scales) = (Vec::new(), Vec::new());
        for expert in view
            .data()
            .chunks_exact(i * o * dtype.size_in_bytes())
            .take(e)
        {
            let dense = Tensor::from_raw_buffer(expert, dtype, &[i, o], &Device::Cpu)?;
            let rows = dense.to_dtype(DType::F32)?.t()?.contiguous()?;
            let (b, s) = mxfp4::encode(&rows.flatten_all()?.to_vec1::<f32>()?)?;
            blocks.extend(b);
            scales.extend(s);
        }
        Ok((blocks, scales))
    })
}
