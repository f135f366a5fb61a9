//! What goes into an operation, checked for number and kind.

use super::array::Array;
use super::behind;
use crate::{DType, Error, Handle, Result};
use abi_stable::std_types::RSlice;
use std::fmt;

/// What an operation works on.
pub struct Arguments<'a> {
    pub tensors: Vec<&'a Array>,
    pub ints: &'a [i64],
    pub floats: &'a [f64],
}

impl<'a> Arguments<'a> {
    /// # Safety
    /// The handles came from [`give`](super::give) and stay for `'a`.
    pub unsafe fn new(
        tensors: &'a RSlice<'_, Handle>,
        ints: &'a RSlice<'_, i64>,
        floats: &'a RSlice<'_, f64>,
    ) -> Self {
        // SAFETY: by the contract above.
        let tensors = tensors.iter().map(|handle| unsafe { behind(handle) });
        Self {
            tensors: tensors.collect(),
            ints: ints.as_slice(),
            floats: floats.as_slice(),
        }
    }

    /// Exactly `N` tensors.
    pub fn tensors<const N: usize>(&self) -> Result<[&'a Array; N]> {
        exactly(&self.tensors, "tensors")
    }

    /// Exactly `N` whole numbers.
    pub fn ints<const N: usize>(&self) -> Result<[i64; N]> {
        exactly(self.ints, "whole numbers")
    }

    /// Exactly `N` real numbers.
    pub fn floats<const N: usize>(&self) -> Result<[f64; N]> {
        exactly(self.floats, "real numbers")
    }

    pub fn failed(&self, op: impl fmt::Debug, error: &Error) -> Error {
        let tensors: Vec<String> = self.tensors.iter().map(ToString::to_string).collect();
        Error::new(format!("{op:?} of {}: {error}", tensors.join(", ")))
    }
}

fn exactly<T: Copy, const N: usize>(values: &[T], what: &str) -> Result<[T; N]> {
    let found = values.len();
    let wrong = |_| Error::new(format!("{N} {what} are needed, found {found}"));
    values.try_into().map_err(wrong)
}

/// A whole number that is a size.
pub fn size(value: i64) -> Result<usize> {
    usize::try_from(value).map_err(|_| Error::new(format!("{value} is no size")))
}

/// Whole numbers that are sizes.
pub fn sizes(values: &[i64]) -> Result<Vec<usize>> {
    values.iter().map(|&value| size(value)).collect()
}

/// The element type of this number.
pub fn element_type(code: i64) -> Result<DType> {
    let dtype = u32::try_from(code).ok().and_then(DType::from_code);
    dtype.ok_or_else(|| Error::new(format!("unknown element type {code}")))
}
