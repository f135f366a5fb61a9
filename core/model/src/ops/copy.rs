//! Overwrites a tensor in place.

use anyhow::{Result, ensure};
use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Tensor};
use std::ops::Range;

/// Writes the elements of `src` into `dst`, so that all holders of `dst` see them. Shape, type and device must be the
/// same.
pub fn into(dst: &Tensor, src: &Tensor) -> Result<()> {
    ensure!(
        dst.dims() == src.dims() && dst.dtype() == src.dtype(),
        "cannot copy {:?} {:?} into {:?} {:?}",
        src.dtype(),
        src.dims(),
        dst.dtype(),
        dst.dims()
    );
    Ok(dst.inplace_op2(&src.contiguous()?, &Copy)?)
}

struct Copy;

impl InplaceOp2 for Copy {
    fn name(&self) -> &'static str {
        "copy"
    }

    fn cpu_fwd(
        &self,
        dst: &mut CpuStorage,
        dst_l: &Layout,
        src: &CpuStorage,
        src_l: &Layout,
    ) -> candle_core::Result<()> {
        use candle_core::backend::BackendStorage;
        if !dst_l.is_contiguous() {
            candle_core::bail!("copy: the target is not contiguous");
        }
        src.copy_strided_src(dst, dst_l.start_offset(), src_l)
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        dst: &mut candle_core::CudaStorage,
        dst_l: &Layout,
        src: &candle_core::CudaStorage,
        src_l: &Layout,
    ) -> candle_core::Result<()> {
        use candle_core::backend::BackendStorage;
        if !dst_l.is_contiguous() {
            candle_core::bail!("copy: the target is not contiguous");
        }
        src.copy_strided_src(dst, dst_l.start_offset(), src_l)
    }
}

/// Overwrites the elements of a contiguous tensor of u32 with numbers of the host, without asking for memory.
///
/// # Errors
/// Another number of elements or another type.
pub fn from_host(dst: &Tensor, numbers: &[u32]) -> Result<()> {
    ensure!(
        dst.elem_count() == numbers.len(),
        "cannot copy {} numbers into {:?}",
        numbers.len(),
        dst.dims()
    );
    Ok(dst.inplace_op1(&FromHost(numbers))?)
}

struct FromHost<'a>(&'a [u32]);

impl FromHost<'_> {
    /// The elements of a tensor in its memory.
    fn range(layout: &Layout) -> candle_core::Result<Range<usize>> {
        match layout.contiguous_offsets() {
            Some((start, end)) => Ok(start..end),
            None => candle_core::bail!("copy: the target is not contiguous"),
        }
    }
}

impl InplaceOp1 for FromHost<'_> {
    fn name(&self) -> &'static str {
        "copy from the host"
    }

    fn cpu_fwd(&self, dst: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        use candle_core::backend::BackendStorage;
        match dst {
            CpuStorage::U32(dst) => dst[Self::range(layout)?].copy_from_slice(self.0),
            other => candle_core::bail!("copy: the target has {:?}", other.dtype()),
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        dst: &mut candle_core::CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<()> {
        use candle_core::backend::BackendStorage;
        use candle_core::cuda_backend::{CudaStorageSlice, WrapErr};
        let stream = dst.device.cuda_stream();
        match &mut dst.slice {
            CudaStorageSlice::U32(slice) => {
                let mut target = slice.slice_mut(Self::range(layout)?);
                stream.memcpy_htod(self.0, &mut target).w()
            }
            _ => candle_core::bail!("copy: the target has {:?}", dst.dtype()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn all_holders_see_it() {
        let dst = Tensor::new(&[1f32, 2.0, 3.0], &Device::Cpu).unwrap();
        let held = dst.clone();
        into(&dst, &Tensor::new(&[4f32, 5.0, 6.0], &Device::Cpu).unwrap()).unwrap();
        assert_eq!(held.to_vec1::<f32>().unwrap(), [4.0, 5.0, 6.0]);
        assert!(into(&dst, &Tensor::new(&[4f32], &Device::Cpu).unwrap()).is_err());
    }

    #[test]
    fn numbers_of_the_host_go_to_a_part() {
        let dst = Tensor::new(&[1u32, 2, 3, 4], &Device::Cpu).unwrap();
        let part = dst.narrow(0, 1, 2).unwrap();
        from_host(&part, &[7, 8]).unwrap();
        assert_eq!(dst.to_vec1::<u32>().unwrap(), [1, 7, 8, 4]);
        assert!(from_host(&part, &[7]).is_err());
        let floats = Tensor::new(&[1f32], &Device::Cpu).unwrap();
        assert!(from_host(&floats, &[7]).is_err());
        let turned = dst.reshape((2, 2)).unwrap().t().unwrap();
        assert!(from_host(&turned, &[1, 2, 3, 4]).is_err());
    }
}
