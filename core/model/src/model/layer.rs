//! A decoder layer, which is the unit of recomputation: it keeps its tape, or only its input and the routing of its
//! tokens.

use super::attention::{Attention, BatchLayout, DecodeLayout, LayerKvCache, Tape as AttentionTape};
use super::moe::{Moe, Tape as MoeTape};
use super::norm::Norm;
use crate::ops::router::RoutePlan;
use anyhow::Result;
use candle_core::Tensor;

/// A layer computes `x + attention(norm(x))`, and then the same with the experts.
#[derive(Debug)]
pub struct DecoderLayer {
    /// The norm before attention.
    pub input_norm: Norm,
    /// The attention.
    pub attention: Attention,
    /// The norm before the experts.
    pub post_norm: Norm,
    /// The router and the experts.
    pub moe: Moe,
}

/// What a layer keeps of its forward pass.
#[derive(Debug)]
pub enum Kept {
    /// Everything that the backward pass reads.
    Tape(Box<Tape>),
    /// The input, and which token went to which expert.
    Input(Tensor, RoutePlan),
}

/// Everything that the backward pass of a layer reads.
#[derive(Debug)]
pub struct Tape {
    x: Tensor,
    attention: AttentionTape,
    middle: Tensor,
    /// The tape of the experts.
    pub moe: MoeTape,
}

impl DecoderLayer {
    /// Runs the attention half on `x` `[T, H]`: returns its tape, its output with the residual, and that normed.
    fn attend(
        &self,
        x: &Tensor,
        batch: &BatchLayout,
        seed: Option<u64>,
    ) -> Result<(AttentionTape, Tensor, Tensor)> {
        let normed = self.input_norm.forward(x)?;
        let (attended, attention) = self.attention.forward(&normed, batch, seed)?;
        let (middle, normed) = self.post_norm.forward_sum(x, &attended)?;
        Ok((attention, middle, normed))
    }

    /// Takes `x` `[T, H]` to `[T, H]`.
    pub fn forward(
        &self,
        x: &Tensor,
        batch: &BatchLayout,
        seed: Option<u64>,
    ) -> Result<(Tensor, Tape)> {
        let (attention, middle, normed) = self.attend(x, batch, seed)?;
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

    /// Makes the tape of [`forward`](Self::forward) again, without computing what only the output needs.
    fn recompute(
        &self,
        x: Tensor,
        batch: &BatchLayout,
        seed: Option<u64>,
        plan: RoutePlan,
    ) -> Result<Tape> {
        let (attention, middle, normed) = self.attend(&x, batch, seed)?;
        let moe = self.moe.recompute(&normed, plan)?;
        Ok(Tape {
            x,
            attention,
            middle,
            moe,
        })
    }

    /// Returns the gradient by the input from `dy` `[T, H]`. A layer that kept only its input runs again first.
    pub fn backward(
        &self,
        kept: Kept,
        batch: &BatchLayout,
        seed: Option<u64>,
        dy: Tensor,
        daux: Option<&Tensor>,
    ) -> Result<Tensor> {
        let tape = match kept {
            Kept::Tape(tape) => *tape,
            Kept::Input(x, plan) => self.recompute(x, batch, seed, plan)?,
        };
        let dmixed = self.moe.backward(tape.moe, &dy, daux)?;
        let dmiddle = self.post_norm.backward(&tape.middle, &dmixed, Some(&dy))?;
        drop((tape.middle, dmixed, dy));
        let dattended = self.attention.backward(tape.attention, batch, &dmiddle)?;
        self.input_norm
            .backward(&tape.x, &dattended, Some(&dmiddle))
    }

    /// Runs new tokens, which follow those in `cache`.
    pub fn decode(
        &self,
        x: &Tensor,
        new: &DecodeLayout,
        cache: &mut LayerKvCache,
    ) -> Result<Tensor> {
        let normed = self.input_norm.forward(x)?;
        let attended = self.attention.decode(&normed, new, cache)?;
        let (middle, normed) = self.post_norm.forward_sum(x, &attended)?;
        Ok(self.moe.forward(&normed, &middle)?.0)
    }
}
