//! Launches kernels on tensors.
//!
//! All work goes to one stream of one device, so the order of calls is the order of execution and a
//! buffer that is freed is not reused before the kernels that read it are done. Pointers are passed
//! raw; the kernels' table (`apus_kernels`) says what each argument must be.

use super::functions;
use super::tensor_map::TensorMap;
use anyhow::{Context, Result, bail, ensure};
use apus_kernels::{ELEMENTS_PER_BLOCK, Module, ROWS_PER_BLOCK};
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::{CudaStorage, CudaStorageSlice};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, DType, Shape, Storage, Tensor};
use half::bf16;

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Arg<'a> {
    /// An address on the device.
    Pointer(u64),
    /// By value.
    I32(i32),
    /// By value.
    I64(i64),
    /// By value.
    U32(u32),
    /// By value.
    U64(u64),
    /// By value.
    F32(f32),
    /// By value: a `const __grid_constant__ CUtensorMap`.
    TensorMap(&'a TensorMap),
}

/// Passes a size as an `i32` argument.
pub fn int(size: usize) -> Result<Arg<'static>> {
    Ok(Arg::I32(i32::try_from(size).with_context(|| {
        format!("{size} is too large for a kernel")
    })?))
}

/// Passes a size as an `i64` argument.
pub fn long(size: usize) -> Arg<'static> {
    Arg::I64(size as i64)
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

/// [`pointer`] of bf16 as an argument.
pub fn b16(tensor: &Tensor) -> Result<Arg<'static>> {
    pointer(tensor, DType::BF16).map(Arg::Pointer)
}

/// [`pointer`] of f32 as an argument.
pub fn f32(tensor: &Tensor) -> Result<Arg<'static>> {
    pointer(tensor, DType::F32).map(Arg::Pointer)
}

/// [`pointer`] of u32 as an argument.
pub fn u32(tensor: &Tensor) -> Result<Arg<'static>> {
    pointer(tensor, DType::U32).map(Arg::Pointer)
}

/// [`pointer`] of u8 as an argument.
pub fn u8(tensor: &Tensor) -> Result<Arg<'static>> {
    pointer(tensor, DType::U8).map(Arg::Pointer)
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

/// The blocks, threads and dynamic shared memory of a launch.
#[derive(Debug, Clone, Copy)]
pub struct Grid {
    blocks: [usize; 3],
    threads: u32,
    shared: u32,
}

impl Grid {
    /// Blocks along up to three axes.
    pub fn new(blocks: [usize; 3], threads: u32) -> Self {
        Self {
            blocks,
            threads,
            shared: 0,
        }
    }

    /// The same grid with `bytes` of dynamic shared memory for each block.
    pub fn with_shared(self, bytes: u32) -> Self {
        Self {
            shared: bytes,
            ..self
        }
    }

    /// The element geometry of the kernels' table.
    pub fn elements(count: usize) -> Self {
        Self::new([count.div_ceil(ELEMENTS_PER_BLOCK), 1, 1], 256)
    }

    /// The row geometry of the kernels' table.
    pub fn rows(count: usize) -> Self {
        Self::new([count.div_ceil(ROWS_PER_BLOCK), 1, 1], 128)
    }
}

/// Launches a kernel; a grid without blocks does nothing.
pub fn launch(
    cuda: &CudaDevice,
    module: &Module,
    kernel: &str,
    grid: Grid,
    args: &[Arg],
) -> Result<()> {
    let [x, y, z] = grid.blocks;
    if x * y * z == 0 {
        return Ok(());
    }
    let config = LaunchConfig {
        grid_dim: (u32::try_from(x)?, u32::try_from(y)?, u32::try_from(z)?),
        block_dim: (grid.threads, 1, 1),
        shared_mem_bytes: grid.shared,
    };
    let stream = cuda.cuda_stream();
    let function = functions::get(stream.context(), module, kernel, grid.shared)
        .with_context(|| format!("CUDA kernel {kernel}"))?;
    let mut builder = stream.launch_builder(&function);
    for arg in args {
        match arg {
            Arg::Pointer(value) | Arg::U64(value) => builder.arg(value),
            Arg::I32(value) => builder.arg(value),
            Arg::I64(value) => builder.arg(value),
            Arg::U32(value) => builder.arg(value),
            Arg::F32(value) => builder.arg(value),
            Arg::TensorMap(map) => builder.arg(*map),
        };
    }
    // SAFETY: every caller passes the arguments that the kernels' table documents for this kernel,
    // with pointers from `pointer`, which checked type and contiguity; shapes were checked before.
    unsafe { builder.launch(config) }.with_context(|| format!("CUDA kernel {kernel}"))?;
    Ok(())
}
