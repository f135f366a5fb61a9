//! New tensors beside an existing one, and elements to and from slices.

use super::{DType, Element, Op, Tensor, taken};
use crate::{Error, Result};
use abi_stable::std_types::{RSlice, RSliceMut};

impl Tensor {
    /// Zeros in this tensor's shape, type and place.
    ///
    /// # Errors
    /// Out of memory.
    pub fn zeros_like(&self) -> Result<Self> {
        self.full_like(0.0)
    }

    /// One value everywhere, in this tensor's shape, type and place.
    ///
    /// # Errors
    /// Out of memory.
    pub fn full_like(&self, value: f64) -> Result<Self> {
        self.new_full(self.shape(), value, self.dtype())
    }

    /// Zeros where this tensor is.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new_zeros(&self, shape: &[usize], dtype: DType) -> Result<Self> {
        self.new_full(shape, 0.0, dtype)
    }

    /// One value everywhere, where this tensor is.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new_full(&self, shape: &[usize], value: f64, dtype: DType) -> Result<Self> {
        self.call(
            Op::Full,
            &[],
            &head(&[i64::from(dtype as u32)], shape),
            &[value],
        )
    }

    /// `start`, `start + step`, ..., where this tensor is.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new_arange(&self, start: f64, step: f64, length: usize, dtype: DType) -> Result<Self> {
        let ints = [i64::from(dtype as u32), length as i64];
        self.call(Op::Arange, &[], &ints, &[start, step])
    }

    /// Uniform f32 values in `low` to below `high`, where this tensor is.
    ///
    /// The numbers are a function of `seed` and `stream` and the same on every device: take a number
    /// of the run as `stream`, such as the step, and a resumed run sees the same ones.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new_rand(
        &self,
        shape: &[usize],
        low: f64,
        high: f64,
        (seed, stream): (u64, u64),
    ) -> Result<Self> {
        let ints = head(&[seed.cast_signed(), stream.cast_signed()], shape);
        self.call(Op::Rand, &[], &ints, &[low, high])
    }

    /// Normal f32 values where this tensor is; `seed` and `stream` as for [`new_rand`](Self::new_rand).
    ///
    /// # Errors
    /// Out of memory.
    pub fn new_randn(
        &self,
        shape: &[usize],
        mean: f64,
        std: f64,
        (seed, stream): (u64, u64),
    ) -> Result<Self> {
        let ints = head(&[seed.cast_signed(), stream.cast_signed()], shape);
        self.call(Op::Randn, &[], &ints, &[mean, std])
    }

    /// A tensor of these elements, row by row, where this tensor is.
    ///
    /// # Errors
    /// A shape of another number of elements.
    pub fn new_tensor<T: Element>(&self, elements: &[T], shape: &[usize]) -> Result<Self> {
        if elements.len() != shape.iter().product::<usize>() {
            let found = elements.len();
            return Err(Error::new(format!(
                "{found} elements for a tensor {shape:?}"
            )));
        }
        // SAFETY: f32, i64, u32 and bool have no padding and every byte of theirs is initialised.
        let bytes = unsafe {
            std::slice::from_raw_parts(elements.as_ptr().cast::<u8>(), size_of_val(elements))
        };
        let (handle, host) = self.raw();
        // SAFETY: the handle is this host's; the bytes are elements of the type named.
        let made = unsafe {
            host.upload()(
                handle,
                shape.into(),
                T::DTYPE as u32,
                RSlice::from_slice(bytes),
            )
        };
        // SAFETY: the handle was given away by this host just now.
        Ok(unsafe { Self::from_raw(taken(made)?, host) })
    }

    /// All elements, row by row.
    ///
    /// # Errors
    /// Another element type, or the device failed.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.dtype() != T::DTYPE {
            return Err(Error::new(format!(
                "the elements of a {:?} tensor were asked for as {:?}; cast it first",
                self.dtype(),
                T::DTYPE
            )));
        }
        let mut stored = vec![T::Stored::default(); self.elements()];
        // SAFETY: numbers without padding, of which every pattern of bits is valid.
        let bytes = unsafe {
            let size = size_of_val(stored.as_slice());
            std::slice::from_raw_parts_mut(stored.as_mut_ptr().cast::<u8>(), size)
        };
        let (handle, host) = self.raw();
        // SAFETY: the handle is this host's; the buffer holds exactly its elements.
        taken(unsafe { host.download()(handle, RSliceMut::from_mut_slice(bytes)) })?;
        Ok(stored.into_iter().map(T::from_stored).collect())
    }

    /// All elements, row by row, as f32 whatever their type.
    ///
    /// # Errors
    /// The device failed.
    pub fn to_vec_f32(&self) -> Result<Vec<f32>> {
        match self.dtype() {
            DType::F32 => self.to_vec(),
            _ => self.cast(DType::F32)?.to_vec(),
        }
    }

    /// The one element of this tensor.
    ///
    /// # Errors
    /// It has none, or more than one.
    pub fn item(&self) -> Result<f64> {
        match self.to_vec_f32()?.as_slice() {
            [value] => Ok(f64::from(*value)),
            _ => Err(Error::new(format!("item of a tensor {:?}", self.shape()))),
        }
    }
}

/// Numbers with a shape behind them.
fn head(numbers: &[i64], shape: &[usize]) -> Vec<i64> {
    let sizes = shape.iter().map(|&size| size as i64);
    numbers.iter().copied().chain(sizes).collect()
}
