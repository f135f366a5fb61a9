//! The attention half of a layer: projections to queries, keys and values, perhaps norms of queries and keys, rotation,
//! attention with or without sinks, output.

use super::linear::Linear;
use super::param::Weight;
use super::projections::{Projections, Tape as ProjectionTape};
use super::qk_norms::QkNorms;
use crate::ops::attention::{self, Saved};
use crate::ops::dropout::Draws;
use crate::ops::rope::{self, RopeTable};
use crate::ops::{Groups, Heads, SeqLayout};
use anyhow::Result;
use candle_core::{DType, Tensor};

/// Grouped-query attention, full or sliding.
#[derive(Debug)]
pub struct Attention {
    /// The projections to queries, keys and values.
    pub qkv: Projections<3>,
    /// The projection of the output.
    pub output: Projections<1>,
    /// The norms of queries and keys, if there are any.
    pub qk_norms: Option<QkNorms>,
    /// A logit for each query head, `[Q]`, that takes part in its softmax, if there are any.
    pub sinks: Option<Weight>,
    /// The number and size of heads.
    pub heads: Heads,
    /// The number of keys that a query sees, if the layer has a sliding window.
    pub window: Option<usize>,
}

/// How the tokens of a batch are laid out: the sequences, and what attention needs for their positions.
#[derive(Debug, Clone)]
pub struct BatchLayout {
    /// The sequences.
    pub seqs: SeqLayout,
    /// Angles for all positions.
    pub rope: RopeTable,
    /// All tokens as one group.
    pub rows: Groups,
}

/// What [`Attention::backward`] needs.
#[derive(Debug)]
pub struct Tape {
    input: ProjectionTape<3>,
    /// `[q | k | v]` before the norms, if there are any.
    projected: Option<Tensor>,
    /// Rotated `[q | k | v]`.
    qkv: Tensor,
    saved: Saved,
    output: ProjectionTape<1>,
}

impl Attention {
    /// The linear layers.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.qkv.layers().iter().chain(self.output.layers())
    }

    /// The linear layers, to be given low-rank updates.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let output = self.output.layers_mut();
        self.qkv.layers_mut().iter_mut().chain(output)
    }

    pub(super) fn sinks(&self, dtype: DType) -> Result<Option<Tensor>> {
        let sinks = self.sinks.as_ref().map(|sinks| sinks.get(dtype));
        sinks.transpose()
    }

    /// Takes normed `x` `[T, H]` to `[T, H]`. `draws` switches dropout on.
    pub fn forward(
        &self,
        x: &Tensor,
        batch: &BatchLayout,
        draws: Option<&Draws>,
    ) -> Result<(Tensor, Tape)> {
        let BatchLayout { seqs, rope, rows } = batch;
        let (mut qkv, input) = self.qkv.forward(x, rows, draws)?;
        let mut projected = None;
        if let Some(norms) = &self.qk_norms {
            let normed = norms.forward(&qkv, self.heads)?;
            projected = Some(std::mem::replace(&mut qkv, normed));
        }
        let qkv = rope::apply(&qkv, rope, &seqs.positions, self.heads, false)?;
        let sinks = self.sinks(qkv.dtype())?;
        let (out, lse) = attention::forward(&qkv, sinks.as_ref(), seqs, self.heads, self.window)?;
        let draws = draws.map(|draws| draws.of(3));
        let (y, output) = self.output.forward(&out, rows, draws.as_ref())?;
        let tape = Tape {
            input,
            projected,
            qkv,
            saved: Saved { out, lse },
            output,
        };
        Ok((y, tape))
    }

    /// Returns the gradient by `x` from `dy` `[T, H]`.
    pub fn backward(&self, tape: Tape, batch: &BatchLayout, dy: &Tensor) -> Result<Tensor> {
        let BatchLayout { seqs, rope, rows } = batch;
        let dout = self.output.backward(&tape.output, dy, rows)?;
        let sinks = self.sinks(dy.dtype())?;
        let (dqkv, dsinks) = attention::backward(
            &tape.qkv,
            sinks.as_ref(),
            seqs,
            self.heads,
            self.window,
            &tape.saved,
            &dout,
        )?;
        drop((dout, tape.qkv, tape.saved));
        if let (Some(sinks), Some(dsinks)) = (&self.sinks, dsinks) {
            sinks.accumulate(|| Ok(dsinks))?;
        }
        let mut dqkv = rope::apply(&dqkv, rope, &seqs.positions, self.heads, true)?;
        if let (Some(norms), Some(projected)) = (&self.qk_norms, &tape.projected) {
            dqkv = norms.backward(projected, self.heads, &dqkv)?;
        }
        self.qkv.backward(&tape.input, &dqkv, rows)
    }
}
