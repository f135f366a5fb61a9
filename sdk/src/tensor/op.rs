//! The operations that a host carries out, by number.
//!
//! Numbers cross the boundary, so a number keeps its meaning for ever. A new operation is appended in
//! a group of its own, under the minor version of the SDK that brought it.

macro_rules! ops {
    ($(since $minor:literal { $($(#[$doc:meta])* $name:ident = $code:literal,)* })*) => {
        /// An operation on tensors. What stands in brackets are whole numbers, in parentheses real
        /// numbers that go with it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Op {
            $($($(#[$doc])* $name = $code,)*)*
        }

        impl Op {
            /// All of them.
            pub const ALL: &[Op] = &[$($(Op::$name,)*)*];

            /// The operation of this number, if this SDK knows it.
            pub fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($($code => Some(Op::$name),)*)*
                    _ => None,
                }
            }

            /// The minor version of the SDK that brought it.
            pub fn since(self) -> u32 {
                match self {
                    $($(Op::$name)|* => $minor,)*
                }
            }
        }
    };
}

ops! {
    since 0 {
        /// `-x`
        Neg = 0,
        /// `e^x`
        Exp = 1,
        /// Natural logarithm.
        Log = 2,
        /// Square root.
        Sqrt = 3,
        /// `x * x`
        Sqr = 4,
        /// Absolute value.
        Abs = 5,
        /// -1, 0 or 1; no gradient.
        Sign = 6,
        /// Sine.
        Sin = 7,
        /// Cosine.
        Cos = 8,
        /// Hyperbolic tangent.
        Tanh = 9,
        /// `1 / (1 + e^-x)`
        Sigmoid = 10,
        /// Error function.
        Erf = 11,
        /// `max(x, 0)`
        Relu = 12,
        /// `1 / x`
        Recip = 13,
        /// Towards minus infinity; no gradient.
        Floor = 14,
        /// Towards plus infinity; no gradient.
        Ceil = 15,
        /// To the nearest, halves away from zero; no gradient.
        Round = 16,
        /// Truth turned round.
        Not = 17,

        /// `a + b`, with broadcasting.
        Add = 32,
        /// `a - b`, with broadcasting.
        Sub = 33,
        /// `a * b`, with broadcasting.
        Mul = 34,
        /// `a / b`, with broadcasting.
        Div = 35,
        /// The greater one, with broadcasting.
        Maximum = 36,
        /// The smaller one, with broadcasting.
        Minimum = 37,
        /// `a == b`, with broadcasting, to truth values.
        Eq = 38,
        /// `a != b`
        Ne = 39,
        /// `a < b`
        Lt = 40,
        /// `a <= b`
        Le = 41,
        /// `a > b`
        Gt = 42,
        /// `a >= b`
        Ge = 43,
        /// Both true, with broadcasting.
        And = 44,
        /// Either true, with broadcasting.
        Or = 45,
        /// `[.., m, k]` times `[.., k, n]`, leading dimensions with broadcasting.
        Matmul = 46,
        /// Where the first is true the second, else the third; with broadcasting.
        Where = 47,

        /// `x * (mul) + (add)`
        Affine = 64,
        /// `x ^ (exponent)`
        Powf = 65,
        /// No less than `(low)` and no more than `(high)`.
        Clamp = 66,

        /// Sum along `[dim]`, which stays with length 1.
        Sum = 80,
        /// Mean along `[dim]`.
        Mean = 81,
        /// Maximum along `[dim]`.
        Max = 82,
        /// Minimum along `[dim]`.
        Min = 83,
        /// Place of the maximum along `[dim]`, u32.
        ArgMax = 84,
        /// Place of the minimum along `[dim]`, u32.
        ArgMin = 85,
        /// Softmax along `[dim]`.
        Softmax = 86,
        /// Logarithm of the softmax along `[dim]`.
        LogSoftmax = 87,
        /// Running sum along `[dim]`.
        CumSum = 88,
        /// Places that sort along `[dim, descending]`, u32.
        ArgSort = 89,

        /// The same elements in shape `[..]`.
        Reshape = 96,
        /// Dimensions in the order `[..]`.
        Permute = 97,
        /// `[dim, start, len]`
        Narrow = 98,
        /// Repeated to shape `[..]`.
        BroadcastTo = 99,
        /// All tensors one after another along `[dim]`.
        Cat = 100,

        /// `x[.., index[..], ..]` along `[dim]`; the index has the result's shape.
        Gather = 112,
        /// Whole slices of `[dim]` by an index of one dimension.
        IndexSelect = 113,
        /// A copy of x with `x[.., index[..], ..] = src` along `[dim]`.
        Scatter = 114,
        /// A copy of x with `x[.., index[..], ..] += src` along `[dim]`.
        ScatterAdd = 115,
        /// A copy of x with slices of src added along `[dim]` by an index of one dimension.
        IndexAdd = 116,

        /// To element type `[dtype]`.
        Cast = 128,
        /// The same values, through which no gradient flows.
        Detach = 129,

        /// `(value)` everywhere: `[dtype, shape ..]`, where the first tensor is.
        Full = 144,
        /// `(start)`, `(start) + (step)`, ...: `[dtype, length]`.
        Arange = 145,
        /// Uniform in `(low)` to below `(high)`, f32: `[seed, stream, shape ..]`.
        Rand = 146,
        /// Normal with `(mean)` and `(standard deviation)`, f32: `[seed, stream, shape ..]`.
        Randn = 147,
    }
    since 1 {
        /// For each f32 the place of the nearest number of a sorted map of 256, four in a u32, the first in the lowest bits.
        Quantize = 160,
        /// The numbers of a map of 256 at the places that [`Quantize`](Self::Quantize) gave.
        Dequantize = 161,

        /// What a layer gives with a low-rank update: of its output y, its input x, A and B, `y + (scale) x A^T B^T`; in
        /// training an input of A is dropped with probability `(dropout)`.
        LowRank = 176,
        /// The same with a magnitude of each output (DoRA): of y, x, A, B and the magnitude, `(scale)`.
        LowRankDecomposed = 177,
    }
}

macro_rules! updates {
    ($(since $minor:literal { $($(#[$doc:meta])* $name:ident = $code:literal,)* })*) => {
        /// A change of a tensor in place, seen by all who hold it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Update {
            $($($(#[$doc])* $name = $code,)*)*
        }

        impl Update {
            /// The update of this number, if this SDK knows it.
            pub fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($($code => Some(Update::$name),)*)*
                    _ => None,
                }
            }

            /// The minor version of the SDK that brought it.
            pub fn since(self) -> u32 {
                match self {
                    $($(Update::$name)|* => $minor,)*
                }
            }
        }
    };
}

updates! {
    since 0 {
        /// The elements of the second tensor.
        Set = 0,
        /// One AdamW step: parameter, gradient, first and second moment; `[step]`,
        /// `(lr, beta1, beta2, eps, weight_decay)`.
        AdamW = 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_operations_belong_together() {
        for &op in Op::ALL {
            assert_eq!(Op::from_code(op as u32), Some(op));
        }
        assert_eq!(Op::from_code(u32::MAX), None);
        assert_eq!(Update::from_code(Update::AdamW as u32), Some(Update::AdamW));
    }
}
