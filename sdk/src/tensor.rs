//! A handle on a tensor of the host.
//!
//! Components compute with tensors on whatever device the run uses without containing any tensor
//! library: the handle forwards every operation to the host. A loss written with it is
//! differentiated by the host.

use crate::{AdamW, Result};
use std::fmt;
use std::sync::Arc;

/// Element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// Brain float, 16 bits.
    BF16,
    /// 64-bit signed integer.
    I64,
    /// 32-bit unsigned integer, for token ids and indices.
    U32,
    /// Truth value, stored in a byte.
    Bool,
}

/// Element-wise functions of one tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Unary {
    Neg,
    Exp,
    Log,
    Sqrt,
    Sqr,
    Abs,
    Sign,
    Tanh,
    Sigmoid,
    Recip,
}

/// Element-wise functions of two tensors, with broadcasting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Maximum,
    Minimum,
}

/// Reductions along one dimension, which stays with length 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Reduce {
    Sum,
    Mean,
    Max,
    Min,
}

/// What the host implements for [`Tensor`]; components use the handle's methods.
#[allow(missing_docs, clippy::missing_errors_doc)]
pub trait TensorOps: Send + Sync {
    fn shape(&self) -> &[usize];
    fn dtype(&self) -> DType;
    fn as_any(&self) -> &dyn std::any::Any;
    fn unary(&self, op: Unary) -> Result<Tensor>;
    fn binary(&self, op: Binary, rhs: &Tensor) -> Result<Tensor>;
    fn affine(&self, mul: f64, add: f64) -> Result<Tensor>;
    fn matmul(&self, rhs: &Tensor) -> Result<Tensor>;
    fn reduce(&self, op: Reduce, dim: usize) -> Result<Tensor>;
    fn log_softmax(&self, dim: usize) -> Result<Tensor>;
    fn gather(&self, dim: usize, index: &Tensor) -> Result<Tensor>;
    fn reshape(&self, shape: &[usize]) -> Result<Tensor>;
    fn transpose(&self, a: usize, b: usize) -> Result<Tensor>;
    fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<Tensor>;
    fn cast(&self, dtype: DType) -> Result<Tensor>;
    fn detach(&self) -> Tensor;
    fn full_like(&self, value: f64) -> Result<Tensor>;
    fn to_vec_f32(&self) -> Result<Vec<f32>>;
    fn set(&self, src: &Tensor) -> Result<()>;
    fn adamw(&self, grad: &Tensor, m: &Tensor, v: &Tensor, hyper: &AdamW) -> Result<()>;
}

/// A tensor of the host. Cloning copies the handle, not the data.
#[derive(Clone)]
pub struct Tensor(Arc<dyn TensorOps>);

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// An integer tensor, or out of memory.
        pub fn $name(&self) -> Result<Self> {
            self.0.unary(Unary::$op)
        }
    )*};
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// Shapes that do not broadcast, or different element types.
        pub fn $name(&self, rhs: &Self) -> Result<Self> {
            self.0.binary(Binary::$op, rhs)
        }
    )*};
}

macro_rules! reduce {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        /// The dimension stays, with length 1.
        ///
        /// # Errors
        /// A dimension that the tensor does not have.
        pub fn $name(&self, dim: usize) -> Result<Self> {
            self.0.reduce(Reduce::$op, dim)
        }
    )*};
}

impl Tensor {
    /// Wraps the host's implementation.
    pub fn from_host(ops: impl TensorOps + 'static) -> Self {
        Self(Arc::new(ops))
    }

    /// The host's implementation, for the host.
    pub fn host(&self) -> &dyn std::any::Any {
        self.0.as_any()
    }

    /// Length of each dimension.
    pub fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.0.dtype()
    }

    unary! {
        /// `-x`.
        neg = Neg;
        /// e to the power of x.
        exp = Exp;
        /// Natural logarithm.
        log = Log;
        /// Square root.
        sqrt = Sqrt;
        /// `x * x`.
        sqr = Sqr;
        /// Absolute value.
        abs = Abs;
        /// -1, 0 or 1. Has no gradient.
        sign = Sign;
        /// Hyperbolic tangent.
        tanh = Tanh;
        /// `1 / (1 + exp(-x))`.
        sigmoid = Sigmoid;
        /// `1 / x`.
        recip = Recip;
    }

    binary! {
        /// `self + rhs`, with broadcasting.
        add = Add;
        /// `self - rhs`, with broadcasting.
        sub = Sub;
        /// `self * rhs`, with broadcasting.
        mul = Mul;
        /// `self / rhs`, with broadcasting.
        div = Div;
        /// The greater of the two, with broadcasting.
        maximum = Maximum;
        /// The smaller of the two, with broadcasting.
        minimum = Minimum;
    }

    reduce! {
        /// Sum along `dim`.
        sum = Sum;
        /// Mean along `dim`.
        mean = Mean;
        /// Maximum along `dim`.
        max = Max;
        /// Minimum along `dim`.
        min = Min;
    }

    /// `self * mul + add`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn affine(&self, mul: f64, add: f64) -> Result<Self> {
        self.0.affine(mul, add)
    }

    /// Matrix product of `[.., m, k]` and `[.., k, n]`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn matmul(&self, rhs: &Self) -> Result<Self> {
        self.0.matmul(rhs)
    }

    /// Logarithm of the softmax along `dim`.
    ///
    /// # Errors
    /// A dimension that the tensor does not have.
    pub fn log_softmax(&self, dim: usize) -> Result<Self> {
        self.0.log_softmax(dim)
    }

    /// Picks values along `dim` by `index` (u32, of the result's shape).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn gather(&self, dim: usize, index: &Self) -> Result<Self> {
        self.0.gather(dim, index)
    }

    /// The same elements in another shape.
    ///
    /// # Errors
    /// A shape with another number of elements.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        self.0.reshape(shape)
    }

    /// Swaps two dimensions.
    ///
    /// # Errors
    /// A dimension that the tensor does not have.
    pub fn transpose(&self, a: usize, b: usize) -> Result<Self> {
        self.0.transpose(a, b)
    }

    /// `len` entries of `dim` from `start`.
    ///
    /// # Errors
    /// A range outside the tensor.
    pub fn narrow(&self, dim: usize, start: usize, len: usize) -> Result<Self> {
        self.0.narrow(dim, start, len)
    }

    /// The same values in another element type.
    ///
    /// # Errors
    /// Out of memory.
    pub fn cast(&self, dtype: DType) -> Result<Self> {
        self.0.cast(dtype)
    }

    /// The same values, through which no gradient flows.
    pub fn detach(&self) -> Self {
        self.0.detach()
    }

    /// Zeros in this tensor's shape, type and place.
    ///
    /// # Errors
    /// Out of memory.
    pub fn zeros_like(&self) -> Result<Self> {
        self.0.full_like(0.0)
    }

    /// One value everywhere, in this tensor's shape, type and place.
    ///
    /// # Errors
    /// Out of memory.
    pub fn full_like(&self, value: f64) -> Result<Self> {
        self.0.full_like(value)
    }

    /// All elements, row by row, as f32.
    ///
    /// # Errors
    /// The device failed.
    pub fn to_vec_f32(&self) -> Result<Vec<f32>> {
        self.0.to_vec_f32()
    }

    /// Overwrites the elements in place with those of `src`.
    ///
    /// # Errors
    /// Another shape or element type.
    pub fn set(&self, src: &Self) -> Result<()> {
        self.0.set(src)
    }

    /// One fused AdamW update of this parameter and its moments `m` and `v`, in place
    /// (Loshchilov & Hutter, <https://arxiv.org/abs/1711.05101>, in torch's order: decay first).
    ///
    /// # Errors
    /// Shapes or element types that differ.
    pub fn adamw(&self, grad: &Self, m: &Self, v: &Self, hyper: &AdamW) -> Result<()> {
        self.0.adamw(grad, m, v, hyper)
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({:?}, {:?})", self.shape(), self.dtype())
    }
}
