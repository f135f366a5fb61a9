//! Tensors as kernels see them: addresses of contiguous elements, and memory for results.

use anyhow::{Result, bail, ensure};
use apus_kernels::{Element, In, Out};
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, DType, Shape, Storage, Tensor, WithDType};
use half::bf16;

/// What a kernel reads.
///
/// # Errors
/// The tensor is not on CUDA, not contiguous, or of another type.
pub fn input<T: Element + WithDType>(tensor: &Tensor) -> Result<In<'_, T>> {
    Ok(In::at(pointer(tensor, T::DTYPE)?, tensor))
}

/// What a kernel reads if it is there; see [`input`].
pub fn optional_input<T: Element + WithDType>(
    tensor: Option<&Tensor>,
) -> Result<Option<In<'_, T>>> {
    tensor.map(input).transpose()
}

/// What a kernel writes; see [`input`].
pub fn output<T: Element + WithDType>(tensor: &Tensor) -> Result<Out<'_, T>> {
    Ok(Out::at(pointer(tensor, T::DTYPE)?, tensor))
}

/// The address of a contiguous tensor of this type.
///
/// # Errors
/// The tensor is not on CUDA, not contiguous, or of another type.
pub fn pointer(tensor: &Tensor, dtype: DType) -> Result<u64> {
    ensure!(
        tensor.dtype() == dtype && tensor.is_contiguous(),
        "a kernel needs contiguous {dtype:?}, found {:?} {:?}",
        tensor.dtype(),
        tensor.layout()
    );
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("a kernel needs a tensor on CUDA")
    };
    let stream = storage.device.cuda_stream();
    let base = match &storage.slice {
        CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::F64(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U32(slice) => slice.device_ptr(&stream).0,
        CudaStorageSlice::U8(slice) => slice.device_ptr(&stream).0,
        _ => bail!("no kernel takes {dtype:?}"),
    };
    Ok(base + (layout.start_offset() * dtype.size_in_bytes()) as u64)
}

/// A tensor whose content is not set: the caller's kernel writes every element.
pub fn empty(shape: impl Into<Shape>, dtype: DType, cuda: &CudaDevice) -> Result<Tensor> {
    let shape = shape.into();
    let count = shape.elem_count().max(1);
    // SAFETY: the memory is written by a kernel on the same stream before anything reads it.
    let storage = unsafe {
        match dtype {
            DType::BF16 => CudaStorage::wrap_cuda_slice(cuda.alloc::<bf16>(count)?, cuda.clone()),
            DType::F32 => CudaStorage::wrap_cuda_slice(cuda.alloc::<f32>(count)?, cuda.clone()),
            DType::F64 => CudaStorage::wrap_cuda_slice(cuda.alloc::<f64>(count)?, cuda.clone()),
            DType::U32 => CudaStorage::wrap_cuda_slice(cuda.alloc::<u32>(count)?, cuda.clone()),
            DType::U8 => CudaStorage::wrap_cuda_slice(cuda.alloc::<u8>(count)?, cuda.clone()),
            other => bail!("no kernel writes {other:?}"),
        }
    };
    Ok(Tensor::from_storage(
        Storage::Cuda(storage),
        shape,
        BackpropOp::none(),
        false,
    ))
}
