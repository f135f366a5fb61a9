//! A decoder layer, the unit of recomputation: it keeps its tape, or only its input and where the
//! tokens were routed.

use super::attention::{Attention, KvCache, New, Place, Tape as AttentionTape};
use super::moe::{Moe, Tape as MoeTape};
use super::norm::Norm;
use crate::ops::router::RoutePlan;
use anyhow::Result;
use candle_core::Tensor;

/// `x + attention(norm(x))`, then the same with the experts.
#[derive(Debug)]
pub struct DecoderLayer {
    /// Before attention.
    pub input_norm: Norm,
    /// Attention.
    pub attention: Attention,
    /// Before the experts.
    pub post_norm: Norm,
    /// Experts.
    pub moe: Moe,
}

/// What a layer keeps of its forward pass.
#[derive(Debug)]
pub enum Kept {
    /// Everything that the backward pass reads.
    Tape(Box<Tape>),
    /// The input, and where tokens went.
    Input(Tensor, RoutePlan),
}

/// Everything that the backward pass of a layer reads.
#[derive(Debug)]
pub struct Tape {
    x: Tensor,
    attention: AttentionTape,
    middle: Tensor,
    /// Of the experts.
    pub moe: MoeTape,
}

impl DecoderLayer {
    /// The attention half of `x` `[T, H]`: its tape, the residual in the middle, and that normed.
    fn attend(
        &self,
        x: &Tensor,
        place: &Place,
        seed: Option<u64>,
    ) -> Result<(AttentionTape, Tensor, Tensor)> {
        let normed = self.input_norm.forward(x)?;
        let (attended, attention) = self.attention.forward(&normed, place, seed)?;
        let (middle, normed) = self.post_norm.forward_sum(x, &attended)?;
        Ok((attention, middle, normed))
    }

    /// `x` `[T, H]` to `[T, H]`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn forward(&self, x: &Tensor, place: &Place, seed: Option<u64>) -> Result<(Tensor, Tape)> {
        let (attention, middle, normed) = self.attend(x, place, seed)?;
        let (y, moe) = self.moe.forward(&normed, &middle)?;
        let x = x.clone();
        Ok((
            y,
            Tape {
                x,
                attention,
                middle,
                moe,
            },
        ))
    }

    /// The tape of [`forward`](Self::forward) once more, without what only the output needs.
    fn again(&self, x: Tensor, place: &Place, seed: Option<u64>, plan: RoutePlan) -> Result<Tape> {
        let (attention, middle, normed) = self.attend(&x, place, seed)?;
        let moe = self.moe.again(&normed, plan)?;
        Ok(Tape {
            x,
            attention,
            middle,
            moe,
        })
    }

    /// Gradient by the input from `dy` `[T, H]`. A layer that kept only its input runs again first.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn backward(
        &self,
        kept: Kept,
        place: &Place,
        seed: Option<u64>,
        dy: Tensor,
        daux: Option<&Tensor>,
    ) -> Result<Tensor> {
        let tape = match kept {
            Kept::Tape(tape) => *tape,
            Kept::Input(x, plan) => self.again(x, place, seed, plan)?,
        };
        let dmixed = self.moe.backward(tape.moe, &dy, daux)?;
        let dmiddle = self.post_norm.backward(&tape.middle, &dmixed, Some(&dy))?;
        drop((tape.middle, dmixed, dy));
        let dattended = self.attention.backward(tape.attention, place, &dmiddle)?;
        self.input_norm
            .backward(&tape.x, &dattended, Some(&dmiddle))
    }

    /// New tokens after those in `cache`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn decode(&self, x: &Tensor, at: &New, cache: &mut KvCache) -> Result<Tensor> {
        let normed = self.input_norm.forward(x)?;
        let attended = self.attention.decode(&normed, at, cache)?;
        let (middle, normed) = self.post_norm.forward_sum(x, &attended)?;
        Ok(self.moe.forward(&normed, &middle)?.0)
    }
}
