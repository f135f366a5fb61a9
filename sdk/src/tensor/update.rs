//! Changes in place, for optimizers.

use super::{Tensor, Update};
use crate::{AdamW, Result};

impl Tensor {
    /// Overwrites the elements in place with those of `src`.
    ///
    /// Clones change along, and so may what was made of this tensor by [`reshape`](Self::reshape),
    /// [`detach`](Self::detach) and the like, which need not copy; `affine(1.0, 0.0)` is a copy.
    ///
    /// # Errors
    /// Another shape or element type.
    pub fn set(&self, src: &Self) -> Result<()> {
        self.update(Update::Set, &[src], &[], &[])
    }

    /// One fused AdamW update of this parameter and its moments `m` and `v`, in place
    /// (Loshchilov & Hutter, <https://arxiv.org/abs/1711.05101>, in torch's order: decay first).
    ///
    /// # Errors
    /// Shapes or element types that differ.
    pub fn adamw(&self, grad: &Self, m: &Self, v: &Self, hyper: &AdamW) -> Result<()> {
        let AdamW {
            lr,
            beta1,
            beta2,
            eps,
            weight_decay,
            step,
        } = *hyper;
        let floats = [lr, beta1, beta2, eps, weight_decay];
        self.update(Update::AdamW, &[grad, m, v], &[step.cast_signed()], &floats)
    }
}
