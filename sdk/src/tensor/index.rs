//! Operations that pick and place by index. Indices are u32.

use super::{Op, Tensor};
use crate::Result;

impl Tensor {
    /// Picks values along `dim` by `index`, which has the result's shape.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn gather(&self, dim: usize, index: &Self) -> Result<Self> {
        self.call(Op::Gather, &[index], &[dim as i64], &[])
    }

    /// Whole slices of `dim`, by an index of one dimension.
    ///
    /// # Errors
    /// An index of more dimensions.
    pub fn index_select(&self, dim: usize, index: &Self) -> Result<Self> {
        self.call(Op::IndexSelect, &[index], &[dim as i64], &[])
    }

    /// A copy in which the places that `index` names along `dim` hold `src`, which has the index's shape.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn scatter(&self, dim: usize, index: &Self, src: &Self) -> Result<Self> {
        self.call(Op::Scatter, &[index, src], &[dim as i64], &[])
    }

    /// A copy with `src` added at the places that `index` names along `dim`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn scatter_add(&self, dim: usize, index: &Self, src: &Self) -> Result<Self> {
        self.call(Op::ScatterAdd, &[index, src], &[dim as i64], &[])
    }

    /// A copy with the slices of `src` added to those of `dim` that an index of one dimension names.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn index_add(&self, dim: usize, index: &Self, src: &Self) -> Result<Self> {
        self.call(Op::IndexAdd, &[index, src], &[dim as i64], &[])
    }
}
