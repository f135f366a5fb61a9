//! A decoder layer, which is the unit of recomputation: it keeps its tape, or only its input and what its MLP decided.

use super::attention::{Attention, BatchLayout, Tape as AttentionTape};
use super::linear::Linear;
use super::mlp::{Decisions, Mlp, Tape as MlpTape};
use super::norm::Norm;
use crate::ops::dropout::Draws;
use anyhow::Result;
use candle_core::Tensor;

/// A layer computes `x + attention(norm(x))`, and then the same with the MLP.
#[derive(Debug)]
pub struct DecoderLayer {
    /// The norm before attention.
    pub input_norm: Norm,
    /// The attention.
    pub attention: Attention,
    /// The norm before the MLP.
    pub post_norm: Norm,
    /// The MLP.
    pub mlp: Mlp,
}

/// What a layer keeps of its forward pass.
#[derive(Debug)]
pub enum Kept {
    /// Everything that the backward pass reads.
    Tape(Box<Tape>),
    /// The input, and what the MLP decided.
    Input(Tensor, Decisions),
}

/// Everything that the backward pass of a layer reads.
#[derive(Debug)]
pub struct Tape {
    x: Tensor,
    attention: AttentionTape,
    middle: Tensor,
    /// The tape of the MLP.
    pub mlp: MlpTape,
}

impl DecoderLayer {
    /// Runs the attention half on `x` `[T, H]`: returns its tape, its output with the residual, and that normed.
    fn attend(
        &self,
        x: &Tensor,
        batch: &BatchLayout,
        draws: Option<&Draws>,
    ) -> Result<(AttentionTape, Tensor, Tensor)> {
        let normed = self.input_norm.forward(x)?;
        let (attended, attention) = self.attention.forward(&normed, batch, draws)?;
        let (middle, normed) = self.post_norm.forward_sum(x, &attended)?;
        Ok((attention, middle, normed))
    }

    /// Takes `x` `[T, H]` to `[T, H]`.
    pub fn forward(
        &self,
        x: &Tensor,
        batch: &BatchLayout,
        draws: Option<&Draws>,
    ) -> Result<(Tensor, Tape)> {
        let (attention, middle, normed) = self.attend(x, batch, draws)?;
        let (y, mlp) = self.mlp.forward(&normed, &middle, &batch.rows, draws)?;
        let x = x.clone();
        Ok((
            y,
            Tape {
                x,
                attention,
                middle,
                mlp,
            },
        ))
    }

    /// Makes the tape of [`forward`](Self::forward) again, without computing what only the output needs.
    fn recompute(
        &self,
        x: Tensor,
        batch: &BatchLayout,
        draws: Option<&Draws>,
        decisions: Decisions,
    ) -> Result<Tape> {
        let (attention, middle, normed) = self.attend(&x, batch, draws)?;
        let mlp = self.mlp.recompute(&normed, decisions, &batch.rows, draws)?;
        Ok(Tape {
            x,
            attention,
            middle,
            mlp,
        })
    }

    /// Returns the gradient by the input from `dy` `[T, H]`. A layer that kept only its input runs again first.
    pub fn backward(
        &self,
        kept: Kept,
        batch: &BatchLayout,
        draws: Option<&Draws>,
        dy: Tensor,
        daux: Option<&Tensor>,
    ) -> Result<Tensor> {
        let tape = match kept {
            Kept::Tape(tape) => *tape,
            Kept::Input(x, decisions) => self.recompute(x, batch, draws, decisions)?,
        };
        let dnormed = self.mlp.backward(tape.mlp, &dy, &batch.rows, daux)?;
        let dmiddle = self.post_norm.backward(&tape.middle, &dnormed, Some(&dy))?;
        drop((tape.middle, dnormed, dy));
        let dattended = self.attention.backward(tape.attention, batch, &dmiddle)?;
        self.input_norm
            .backward(&tape.x, &dattended, Some(&dmiddle))
    }

    /// The linear layers that may have low-rank updates.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.attention.linears().chain(self.mlp.linears())
    }

    /// The linear layers, to be given low-rank updates.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let mlp = self.mlp.linears_mut();
        self.attention.linears_mut().chain(mlp)
    }

    /// The norms.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let heads = self.attention.qk_norms.iter();
        let heads = heads.flat_map(|norms| [&norms.q_norm, &norms.k_norm]);
        [&self.input_norm, &self.post_norm].into_iter().chain(heads)
    }
}
