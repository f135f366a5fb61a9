//! Reads and makes tensors on the CPU.

use anyhow::{Result, bail};
use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, Shape, Storage, Tensor};

/// Makes a tensor of f32 values.
pub fn f32s(values: Vec<f32>, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(
        Storage::Cpu(CpuStorage::F32(values)),
        shape,
        BackpropOp::none(),
        false,
    )
}

/// Makes a tensor of u32 values.
pub fn u32s(values: Vec<u32>, shape: impl Into<Shape>) -> Tensor {
    Tensor::from_storage(
        Storage::Cpu(CpuStorage::U32(values)),
        shape,
        BackpropOp::none(),
        false,
    )
}

/// An element type of tensors on the CPU.
pub trait CpuElement: Sized {
    /// The elements of `storage`, if it is of this type.
    fn of(storage: &CpuStorage) -> Option<&[Self]>;
}

macro_rules! slices {
    ($($type:ty = $variant:ident),*) => {$(
        impl CpuElement for $type {
            fn of(storage: &CpuStorage) -> Option<&[Self]> {
                match storage {
                    CpuStorage::$variant(values) => Some(values),
                    _ => None,
                }
            }
        }
    )*};
}
slices!(f32 = F32, u32 = U32, u8 = U8, half::bf16 = BF16);

/// Runs `read` on the elements of `tensor`, which is made contiguous first if it is not.
///
/// # Errors
/// The tensor is not on the CPU, or has another type.
pub fn with<T: CpuElement, R>(tensor: &Tensor, read: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        bail!(
            "expected a tensor on the CPU, found one on {:?}",
            tensor.device().location()
        );
    };
    let Some(values) = T::of(storage) else {
        bail!("unexpected element type {:?} on the CPU", tensor.dtype());
    };
    let start = layout.start_offset();
    read(&values[start..start + tensor.elem_count()])
}

/// [`with`] for two tensors of f32.
pub fn with2<R>(
    a: &Tensor,
    b: &Tensor,
    read: impl FnOnce(&[f32], &[f32]) -> Result<R>,
) -> Result<R> {
    with(a, |a| with(b, |b| read(a, b)))
}

/// [`with`] for three tensors of f32.
pub fn with3<R>(
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    read: impl FnOnce(&[f32], &[f32], &[f32]) -> Result<R>,
) -> Result<R> {
    with2(a, b, |a, b| with(c, |c| read(a, b, c)))
}
