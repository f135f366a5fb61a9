//! Operations along a dimension.

use super::{DType, Op, Tensor};
use crate::{Error, Result};

/// Below the greatest number of every element type that is a float.
const FINITE: f64 = 3e38;

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

    /// Logarithm of the sum of exponentials along `dim`, which stays with length 1. It does not overflow.
    ///
    /// # Errors
    /// A dimension that the tensor does not have, whole numbers, or out of memory.
    pub fn logsumexp(&self, dim: usize) -> Result<Self> {
        // A constant to the gradient: it cancels. It is finite also where everything is minus infinity, since infinity
        // less infinity is no number.
        let greatest = self.max(dim)?.clamp(-FINITE, FINITE)?.detach()?;
        let sum = self.sub(&greatest)?.exp()?.sum(dim)?;
        sum.log()?.add(&greatest)
    }

    /// Euclidean norm along `dim`, which stays with length 1: the root of the sum of squares, which are added up in f32.
    /// Where all elements are 0 its gradient is 0.
    ///
    /// # Errors
    /// A dimension that the tensor does not have, or out of memory.
    pub fn norm(&self, dim: usize) -> Result<Self> {
        let squares = self.cast(DType::F32)?.sqr()?.sum(dim)?;
        // The root has no gradient at 0: there it is taken of a constant, and left out.
        let is_zero = squares.eq(&squares.zeros_like()?)?;
        let root = is_zero
            .where_cond(&squares.full_like(1.0)?, &squares)?
            .sqrt()?;
        is_zero
            .where_cond(&root.zeros_like()?, &root)?
            .cast(self.dtype())
    }

    /// Euclidean norm of all elements, a tensor of no dimension.
    ///
    /// # Errors
    /// Out of memory.
    pub fn norm_all(&self) -> Result<Self> {
        self.flatten()?.norm(0)?.reshape(&[])
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
