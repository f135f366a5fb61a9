//! Looks up rows of a matrix in host memory and puts them on a device, so that only these rows are copied.

use super::host::{self, CpuElement};
use anyhow::{Result, bail, ensure};
use candle_core::{DType, Device, Tensor, WithDType};
use half::bf16;
use rayon::prelude::*;

/// Copies the rows `ids` of `matrix` `[V, H]` on the CPU to `device`, as `[n, H]` of its type.
///
/// # Errors
/// An index is beyond the matrix, or the matrix is not in host memory.
pub fn rows(matrix: &Tensor, ids: &[u32], device: &Device) -> Result<Tensor> {
    match matrix.dtype() {
        DType::BF16 => gather::<bf16>(matrix, ids, device),
        DType::F32 => gather::<f32>(matrix, ids, device),
        other => bail!("rows are looked up in bf16 or f32, found {other:?}"),
    }
}

fn gather<T: CpuElement + WithDType + Default>(
    matrix: &Tensor,
    ids: &[u32],
    device: &Device,
) -> Result<Tensor> {
    let (v, h) = matrix.dims2()?;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= v) {
        bail!("row {id} is beyond the {v} that there are");
    }
    ensure!(h > 0, "rows of no width");
    host::with(matrix, |matrix: &[T]| {
        let mut out = vec![T::default(); ids.len() * h];
        out.par_chunks_mut(h)
            .zip(ids)
            .for_each(|(row, &id)| row.copy_from_slice(&matrix[id as usize * h..][..h]));
        Ok(Tensor::from_vec(out, (ids.len(), h), device)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{random, values};

    #[test]
    fn as_index_select_in_both_types() {
        let ids = [4u32, 0, 4, 2];
        let index = Tensor::new(&ids, &Device::Cpu).unwrap();
        for dtype in [DType::F32, DType::BF16] {
            let matrix = random(1, &[5, 3]).to_dtype(dtype).unwrap();
            let found = rows(&matrix, &ids, &Device::Cpu).unwrap();
            let expected = matrix.index_select(&index, 0).unwrap();
            assert_eq!(found.dtype(), dtype);
            let exact = |tensor: &Tensor| values(&tensor.to_dtype(DType::F32).unwrap());
            assert_eq!(exact(&found), exact(&expected));
            let error = rows(&matrix, &[5], &Device::Cpu).unwrap_err();
            assert!(error.to_string().contains("row 5"), "{error}");
        }
    }
}
