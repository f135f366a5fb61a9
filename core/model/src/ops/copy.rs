//! Overwrites a tensor in place.

use anyhow::{Result, ensure};
use candle_core::{CpuStorage, InplaceOp2, Layout, Tensor};

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
}
