//! A decoder layer, which is the unit of recomputation: it keeps its tape, or only its input and what its MLP decided.

use super::attention::{Attention, BatchLayout, Tape as AttentionTape};
use super::linear::Linear;
use super::mixture::Mixture;
use super::mlp::{Decisions, Mlp, Tape as MlpTape};
use super::norm::Norm;
use super::tuned::{Tape as TunedTape, Tuned};
use crate::ops::dropout::Draws;
use anyhow::{Context, Result};
use apus_sdk::LayerKind;
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
    /// Tuners around the whole layer and around its MLP.
    pub tuned: BlockTuners,
}

/// The tuners of blocks that have no matrix of their own.
#[derive(Debug, Default)]
pub struct BlockTuners {
    /// Around the layer.
    pub layer: Option<Tuned>,
    /// Around its MLP.
    pub mlp: Option<Tuned>,
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
    of_tuner: Option<TunedTape>,
    of_mlp_tuner: Option<TunedTape>,
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
        self.forward_by(x, batch, draws, None)
    }

    /// The same, by the decisions of an earlier time if there are any.
    fn forward_by(
        &self,
        x: &Tensor,
        batch: &BatchLayout,
        draws: Option<&Draws>,
        decisions: Option<Decisions>,
    ) -> Result<(Tensor, Tape)> {
        let Some(tuned) = &self.tuned.layer else {
            return self.forward_untuned(x, batch, draws, decisions);
        };
        let (y, of_tuner, tape) =
            tuned.forward(x, |x| self.forward_untuned(x, batch, draws, decisions))?;
        let of_tuner = Some(of_tuner);
        Ok((y, Tape { of_tuner, ..tape }))
    }

    fn forward_untuned(
        &self,
        x: &Tensor,
        batch: &BatchLayout,
        draws: Option<&Draws>,
        decisions: Option<Decisions>,
    ) -> Result<(Tensor, Tape)> {
        let (attention, middle, normed) = self.attend(x, batch, draws)?;
        let run = |x: &Tensor, residual: Option<&Tensor>| {
            self.mlp.forward(x, residual, decisions, &batch.rows, draws)
        };
        let (y, mlp, of_mlp_tuner) = match &self.tuned.mlp {
            None => {
                let (y, mlp) = run(&normed, Some(&middle))?;
                (y, mlp, None)
            }
            Some(tuned) => {
                let told = tuned.forward(&normed, |x| run(x, None)).context("mlp");
                let (y, of_tuner, mlp) = told?;
                ((&middle + y)?, mlp, Some(of_tuner))
            }
        };
        let tape = Tape {
            x: x.clone(),
            attention,
            middle,
            mlp,
            of_tuner: None,
            of_mlp_tuner,
        };
        Ok((y, tape))
    }

    /// Makes the tape of [`forward`](Self::forward) again, without computing what only the output needs. A tuner needs the output.
    fn recompute(
        &self,
        x: Tensor,
        batch: &BatchLayout,
        draws: Option<&Draws>,
        decisions: Decisions,
    ) -> Result<Tape> {
        if self.tuned.layer.is_some() || self.tuned.mlp.is_some() {
            return Ok(self.forward_by(&x, batch, draws, Some(decisions))?.1);
        }
        let (attention, middle, normed) = self.attend(&x, batch, draws)?;
        let mlp = self.mlp.recompute(&normed, decisions, &batch.rows, draws)?;
        Ok(Tape {
            x,
            attention,
            middle,
            mlp,
            of_tuner: None,
            of_mlp_tuner: None,
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
        let mut tape = match kept {
            Kept::Tape(tape) => *tape,
            Kept::Input(x, decisions) => self.recompute(x, batch, draws, decisions)?,
        };
        match (&self.tuned.layer, tape.of_tuner.take()) {
            (Some(tuned), Some(of_tuner)) => tuned.backward(&of_tuner, &dy, |dy| {
                self.backward_untuned(tape, batch, dy.clone(), daux)
            }),
            _ => self.backward_untuned(tape, batch, dy, daux),
        }
    }

    fn backward_untuned(
        &self,
        tape: Tape,
        batch: &BatchLayout,
        dy: Tensor,
        daux: Option<&Tensor>,
    ) -> Result<Tensor> {
        let back = |dy: &Tensor| self.mlp.backward(tape.mlp, dy, &batch.rows, daux);
        let dnormed = match (&self.tuned.mlp, &tape.of_mlp_tuner) {
            (Some(tuned), Some(of_tuner)) => tuned.backward(of_tuner, &dy, back).context("mlp")?,
            _ => back(&dy)?,
        };
        drop(tape.of_mlp_tuner);
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

    /// The tuners in it, of its linear layers, of its blocks and of the matrices of its experts.
    pub fn tuners(&self) -> impl Iterator<Item = &Tuned> {
        let experts = self.mlp.mixture().into_iter().flat_map(Mixture::tuners);
        let blocks = [&self.tuned.layer, &self.tuned.mlp];
        let linears = self.linears().filter_map(|linear| linear.tuned.as_ref());
        linears.chain(blocks.into_iter().flatten()).chain(experts)
    }

    /// The bytes that tuners add to its tape of so many tokens.
    pub fn tuner_tape_bytes(&self, tokens: u64) -> u64 {
        self.tuners().map(|tuned| tuned.tape_bytes(tokens)).sum()
    }

    /// Where the tuner of a block of this kind goes, if the layer has such a block.
    pub fn tuner_of_block(&mut self, kind: LayerKind) -> Option<&mut Option<Tuned>> {
        match (kind, &mut self.mlp) {
            (LayerKind::Decoder, _) => Some(&mut self.tuned.layer),
            (LayerKind::Mlp, _) => Some(&mut self.tuned.mlp),
            (LayerKind::Experts, Mlp::Mixture(mixture)) => Some(&mut mixture.tuned),
            _ => None,
        }
    }

    /// Whether a block of it or a matrix of its experts has a tuner.
    pub fn has_tuned_block(&self) -> bool {
        let mut experts = self.mlp.mixture().into_iter().flat_map(Mixture::tuners);
        experts.next().is_some() || self.tuned.layer.is_some() || self.tuned.mlp.is_some()
    }

    /// The norms.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let heads = self.attention.qk_norms.iter();
        let heads = heads.flat_map(|norms| [&norms.q_norm, &norms.k_norm]);
        [&self.input_norm, &self.post_norm].into_iter().chain(heads)
    }
}
