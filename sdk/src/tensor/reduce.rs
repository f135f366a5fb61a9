//! Operations along a dimension.

use super::{Op, Tensor};
use crate::{Error, Result};

macro_rules! along {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// A dimension that the tensor does not have, or out of memory.
        pub fn $name(&self, dim: usize) -> Result<Self> {
            self.call(Op::$op, &[], &[dim as i64], &[])
        }
    )*};
}

impl Tensor {
    along! {
        /// Sum along `dim`, which stays with length 1.
        sum = Sum;
        /// Mean along `dim`, which stays with length 1.
        mean = Mean;
        /// Maximum along `dim`, which stays with length 1.
        max = Max;
        /// Minimum along `dim`, which stays with length 1.
        min = Min;
        /// Place of the maximum along `dim`, which stays with length 1 (u32).
        argmax = ArgMax;
        /// Place of the minimum along `dim`, which stays with length 1 (u32).
        argmin = ArgMin;
        /// Softmax along `dim`.
        softmax = Softmax;
        /// Logarithm of the softmax along `dim`.
        log_softmax = LogSoftmax;
        /// Sum up to and including each place along `dim`.
        cumsum = CumSum;
    }

    /// Sum of all elements, a tensor of no dimension.
    ///
    /// # Errors
    /// Out of memory.
    pub fn sum_all(&self) -> Result<Self> {
        self.flatten()?.sum(0)?.reshape(&[])
    }

    /// Mean of all elements, a tensor of no dimension.
    ///
    /// # Errors
    /// No elements, or out of memory.
    pub fn mean_all(&self) -> Result<Self> {
        self.flatten()?.mean(0)?.reshape(&[])
    }

    /// Places (u32) that sort along `dim`.
    ///
    /// # Errors
    /// A dimension that the tensor does not have.
    pub fn argsort(&self, dim: usize, descending: bool) -> Result<Self> {
        let ints = [dim as i64, i64::from(descending)];
        self.call(Op::ArgSort, &[], &ints, &[])
    }

    /// Sorted along `dim`, with the places (u32) that its elements came from. Differentiable.
    ///
    /// # Errors
    /// A dimension that the tensor does not have.
    pub fn sort(&self, dim: usize, descending: bool) -> Result<(Self, Self)> {
        let places = self.argsort(dim, descending)?;
        Ok((self.gather(dim, &places)?, places))
    }

    /// The `k` greatest along `dim`, greatest first, with their places (u32). Differentiable.
    ///
    /// # Errors
    /// A dimension that the tensor does not have, or fewer than `k` elements along it.
    pub fn topk(&self, dim: usize, k: usize) -> Result<(Self, Self)> {
        let found = self.shape().get(dim).copied().unwrap_or(0);
        if k > found {
            let shape = self.shape();
            return Err(Error::new(format!(
                "topk of {k} along dimension {dim} of a tensor {shape:?}"
            )));
        }
        let places = self.argsort(dim, true)?.narrow(dim, 0, k)?;
        Ok((self.gather(dim, &places)?, places))
    }
}
