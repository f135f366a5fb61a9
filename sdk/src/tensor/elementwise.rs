//! Operations on each element.

use super::{DType, Op, Tensor};
use crate::Result;

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $op:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// # Errors
        /// An element type that has no such function, or out of memory.
        pub fn $name(&self) -> Result<Self> {
            self.call(Op::$op, &[], &[], &[])
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
            self.call(Op::$op, &[rhs], &[], &[])
        }
    )*};
}

impl Tensor {
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
        /// Sine.
        sin = Sin;
        /// Cosine.
        cos = Cos;
        /// Hyperbolic tangent.
        tanh = Tanh;
        /// `1 / (1 + exp(-x))`.
        sigmoid = Sigmoid;
        /// Error function.
        erf = Erf;
        /// `max(x, 0)`.
        relu = Relu;
        /// `1 / x`.
        recip = Recip;
        /// Towards minus infinity. Has no gradient.
        floor = Floor;
        /// Towards plus infinity. Has no gradient.
        ceil = Ceil;
        /// To the nearest, halves away from zero. Has no gradient.
        round = Round;
        /// Truth values turned round.
        logical_not = Not;
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
        /// `self == rhs` as truth values, with broadcasting.
        eq = Eq;
        /// `self != rhs` as truth values, with broadcasting.
        ne = Ne;
        /// `self < rhs` as truth values, with broadcasting.
        lt = Lt;
        /// `self <= rhs` as truth values, with broadcasting.
        le = Le;
        /// `self > rhs` as truth values, with broadcasting.
        gt = Gt;
        /// `self >= rhs` as truth values, with broadcasting.
        ge = Ge;
        /// Both truth values, with broadcasting.
        logical_and = And;
        /// Either truth value, with broadcasting.
        logical_or = Or;
        /// Matrix product of `[.., m, k]` and `[.., k, n]`; leading dimensions broadcast.
        matmul = Matmul;
    }

    /// `self * mul + add`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn affine(&self, mul: f64, add: f64) -> Result<Self> {
        self.call(Op::Affine, &[], &[], &[mul, add])
    }

    /// `self * factor`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn scale(&self, factor: f64) -> Result<Self> {
        self.affine(factor, 0.0)
    }

    /// From this tensor to `end`, as far as `weight` says: `self + weight * (end - self)`, with broadcasting. At 0 it is
    /// exactly this tensor, at 1 exactly `end`.
    ///
    /// # Errors
    /// Shapes that do not broadcast, or different element types.
    pub fn lerp(&self, end: &Self, weight: f64) -> Result<Self> {
        let way = end.sub(self)?;
        match weight < 0.5 {
            true => self.add(&way.scale(weight)?),
            false => end.sub(&way.scale(1.0 - weight)?),
        }
    }

    /// x to the power of `exponent`.
    ///
    /// # Errors
    /// An integer tensor, or out of memory.
    pub fn powf(&self, exponent: f64) -> Result<Self> {
        self.call(Op::Powf, &[], &[], &[exponent])
    }

    /// No less than `low`, no more than `high`; infinities leave a side open. The gradient is that of
    /// the elements in between.
    ///
    /// # Errors
    /// Out of memory.
    pub fn clamp(&self, low: f64, high: f64) -> Result<Self> {
        self.call(Op::Clamp, &[], &[], &[low, high])
    }

    /// `a` where this truth value holds, else `b`; with broadcasting.
    ///
    /// # Errors
    /// `self` is not of [`DType::Bool`], or shapes or types do not fit.
    pub fn where_cond(&self, a: &Self, b: &Self) -> Result<Self> {
        self.call(Op::Where, &[a, b], &[], &[])
    }

    /// Codes of 8 bits, four in a [`DType::U32`]: for each element the place of the nearest number in `map`, which has 256
    /// numbers and is sorted. The elements are f32, and a multiple of four.
    ///
    /// # Errors
    /// Shapes or types that do not fit; a host without this operation, which came with SDK 1.1.
    pub fn quantize(&self, map: &Self) -> Result<Self> {
        self.call(Op::Quantize, &[map], &[], &[])
    }

    /// The numbers of `map` for the codes of [`quantize`](Self::quantize), in one dimension.
    ///
    /// # Errors
    /// As there.
    pub fn dequantize(&self, map: &Self) -> Result<Self> {
        self.call(Op::Dequantize, &[map], &[], &[])
    }

    /// The same values in another element type; truth values become 0 and 1, numbers become whether
    /// they are other than 0.
    ///
    /// # Errors
    /// Out of memory.
    pub fn cast(&self, dtype: DType) -> Result<Self> {
        self.call(Op::Cast, &[], &[i64::from(dtype as u32)], &[])
    }

    /// The same values, through which no gradient flows.
    ///
    /// # Errors
    /// The host failed.
    pub fn detach(&self) -> Result<Self> {
        self.call(Op::Detach, &[], &[], &[])
    }
}
