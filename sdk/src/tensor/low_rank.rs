//! What a layer gives with a low-rank update, for tuners.

use super::{Op, Tensor};
use crate::Result;

impl Tensor {
    /// What a layer gives with a low-rank update: this output `y` of it, `[T, O]`, and what the factors `a` `[R, I]` and `b`
    /// `[O, R]` make of its input `x` `[T, I]`: `y + scale * x A^T B^T` (LoRA, <https://arxiv.org/abs/2106.09685>). In training each
    /// number that A reads is 0 with probability `dropout`, and those that are left are greater by as much.
    ///
    /// Where this is all that [`Tuner::output`](crate::Tuner::output) does, with the output, the input and the parameters as they
    /// were given, and [`Tuner::input`](crate::Tuner::input) changes nothing, the layer is trained by the kernels of Apus's own
    /// LoRA, experts ([`LayerInfo::matrices`](crate::LayerInfo::matrices)) included. Elsewhere the formula is computed, without
    /// dropout, and `dropout` has to be 0.
    ///
    /// # Errors
    /// Shapes that do not fit, or a `dropout` that is not a share below 1.
    pub fn low_rank(&self, x: &Self, a: &Self, b: &Self, scale: f64, dropout: f64) -> Result<Self> {
        self.call(Op::LowRank, &[x, a, b], &[], &[scale, dropout])
    }

    /// The same with a `magnitude` `[O]` of each output: rows of `W + scale * B A` are scaled to have these norms, where `W` is the
    /// layer's weight (DoRA, <https://arxiv.org/abs/2402.09353>). The norms that they have without are not differentiated.
    ///
    /// The weight is the host's, so this has to be all that [`Tuner::output`](crate::Tuner::output) does. The magnitude begins as
    /// [`Init::RowNorms`](crate::Init::RowNorms).
    ///
    /// # Errors
    /// Shapes that do not fit, or a place where the layer's weight is not known.
    pub fn low_rank_decomposed(
        &self,
        x: &Self,
        a: &Self,
        b: &Self,
        magnitude: &Self,
        scale: f64,
    ) -> Result<Self> {
        self.call(Op::LowRankDecomposed, &[x, a, b, magnitude], &[], &[scale])
    }
}
