//! The attention half of a layer: q, k, v projections, rotation, attention with sinks, output.

use super::fused_linear::{FusedLinear, Tape as FusedTape};
use super::linear::{Linear, Tape as LinearTape};
use super::param::Weight;
use crate::ops::attention::{self, Saved};
use crate::ops::rope::{self, RopeTable};
use crate::ops::{Groups, Heads, SeqLayout};
use anyhow::{Result, bail};
use candle_core::Tensor;

/// Grouped-query attention with sinks, full or sliding.
#[derive(Debug)]
pub struct Attention {
    /// The projection to queries.
    pub q_proj: Linear,
    /// The projection to keys.
    pub k_proj: Linear,
    /// The projection to values.
    pub v_proj: Linear,
    /// The projection of the output.
    pub o_proj: Linear,
    /// The projections to queries, keys and values fused, unless one of their weights is trained.
    pub qkv: Option<FusedLinear>,
    /// The output projection fused with its low-rank update, unless its weight is trained.
    pub o: Option<FusedLinear>,
    /// A logit for each query head, `[Q]`.
    pub sinks: Weight,
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

/// The positions of the tokens that a generation adds to its cache.
#[derive(Debug)]
pub struct DecodeLayout {
    /// Angles for all positions.
    pub rope: RopeTable,
    /// The positions of the new tokens, `[n]` u32.
    pub positions: Tensor,
    /// All new tokens as one group.
    pub rows: Groups,
}

/// What [`Attention::backward`] needs.
#[derive(Debug)]
pub struct Tape {
    input: ProjectionTapes<3>,
    output: ProjectionTapes<1>,
    /// Rotated `[q | k | v]`.
    qkv: Tensor,
    saved: Saved,
}

/// The tapes of projections: one of the fused layers, or one of each layer.
#[derive(Debug)]
enum ProjectionTapes<const N: usize> {
    Fused(FusedTape),
    Separate([LinearTape; N]),
}

/// The keys and values of a layer for the tokens so far, rotated; `[n, KV D]` each.
#[derive(Debug, Default)]
pub struct LayerKvCache {
    keys_and_values: Option<(Tensor, Tensor)>,
}

impl Attention {
    fn inputs(&self) -> [&Linear; 3] {
        [&self.q_proj, &self.k_proj, &self.v_proj]
    }

    /// Computes `[q | k | v]`, not yet rotated.
    fn project_qkv(
        &self,
        x: &Tensor,
        rows: &Groups,
        seed: Option<u64>,
    ) -> Result<(Tensor, ProjectionTapes<3>)> {
        if let Some(qkv) = &self.qkv
            && FusedLinear::can_fuse(&self.inputs(), seed.is_some())
        {
            let (qkv, tape) = qkv.forward(&self.inputs(), x, rows)?;
            return Ok((qkv, ProjectionTapes::Fused(tape)));
        }
        let with = |salt: u64| seed.map(|seed| seed.wrapping_add(salt));
        let (q, q_tape) = self.q_proj.forward(x, with(0))?;
        let (k, k_tape) = self.k_proj.forward(x, with(1))?;
        let (v, v_tape) = self.v_proj.forward(x, with(2))?;
        let tapes = ProjectionTapes::Separate([q_tape, k_tape, v_tape]);
        Ok((Tensor::cat(&[q, k, v], 1)?, tapes))
    }

    fn project_output(
        &self,
        out: &Tensor,
        rows: &Groups,
        seed: Option<u64>,
    ) -> Result<(Tensor, ProjectionTapes<1>)> {
        if let Some(o) = &self.o
            && FusedLinear::can_fuse(&[&self.o_proj], seed.is_some())
        {
            let (y, tape) = o.forward(&[&self.o_proj], out, rows)?;
            return Ok((y, ProjectionTapes::Fused(tape)));
        }
        let seed = seed.map(|seed| seed.wrapping_add(3));
        let (y, tape) = self.o_proj.forward(out, seed)?;
        Ok((y, ProjectionTapes::Separate([tape])))
    }

    /// Takes normed `x` `[T, H]` to `[T, H]`.
    pub fn forward(
        &self,
        x: &Tensor,
        batch: &BatchLayout,
        seed: Option<u64>,
    ) -> Result<(Tensor, Tape)> {
        let BatchLayout { seqs, rope, rows } = batch;
        let (qkv, input) = self.project_qkv(x, rows, seed)?;
        let qkv = rope::apply(&qkv, rope, &seqs.positions, self.heads, false)?;
        let sinks = self.sinks.get(qkv.dtype())?;
        let (out, lse) = attention::forward(&qkv, &sinks, seqs, self.heads, self.window)?;
        let (y, output) = self.project_output(&out, rows, seed)?;
        let saved = Saved { out, lse };
        Ok((
            y,
            Tape {
                input,
                output,
                qkv,
                saved,
            },
        ))
    }

    /// Returns the gradient by `x` from `dy` `[T, H]`.
    pub fn backward(&self, tape: Tape, batch: &BatchLayout, dy: &Tensor) -> Result<Tensor> {
        let BatchLayout { seqs, rope, rows } = batch;
        let dout = match (&tape.output, &self.o) {
            (ProjectionTapes::Fused(tape), Some(o)) => {
                o.backward(&[&self.o_proj], tape, dy, rows)?
            }
            (ProjectionTapes::Separate([tape]), _) => self.o_proj.backward(tape, dy)?,
            (ProjectionTapes::Fused(_), None) => bail!("a fused tape of a layer that is not fused"),
        };
        let sinks = self.sinks.get(dy.dtype())?;
        let (dqkv, dsinks) = attention::backward(
            &tape.qkv,
            &sinks,
            seqs,
            self.heads,
            self.window,
            &tape.saved,
            &dout,
        )?;
        drop((dout, tape.qkv, tape.saved));
        self.sinks.accumulate(|| Ok(dsinks))?;
        let dqkv = rope::apply(&dqkv, rope, &seqs.positions, self.heads, true)?;
        match (&tape.input, &self.qkv) {
            (ProjectionTapes::Fused(tape), Some(qkv)) => {
                qkv.backward(&self.inputs(), tape, &dqkv, rows)
            }
            (ProjectionTapes::Separate(tapes), _) => self.backward_separate(tapes, &dqkv),
            (ProjectionTapes::Fused(_), None) => bail!("a fused tape of a layer that is not fused"),
        }
    }

    fn backward_separate(&self, [q, k, v]: &[LinearTape; 3], dqkv: &Tensor) -> Result<Tensor> {
        let (queries, keys) = (
            self.heads.q * self.heads.dim,
            self.heads.kv * self.heads.dim,
        );
        let part = |start, len| {
            dqkv.narrow(1, start, len)
                .and_then(|part| part.contiguous())
        };
        let dx = self.q_proj.backward(q, &part(0, queries)?)?;
        let dx = (dx + self.k_proj.backward(k, &part(queries, keys)?)?)?;
        Ok((dx + self.v_proj.backward(v, &part(queries + keys, keys)?)?)?)
    }

    /// Takes normed `x` `[n, H]` of new tokens, which follow those in `cache`, to `[n, H]`.
    pub fn decode(
        &self,
        x: &Tensor,
        new: &DecodeLayout,
        cache: &mut LayerKvCache,
    ) -> Result<Tensor> {
        let (qkv, _) = self.project_qkv(x, &new.rows, None)?;
        let qkv = rope::apply(&qkv, &new.rope, &new.positions, self.heads, false)?;
        let (q, kv) = (
            self.heads.q * self.heads.dim,
            self.heads.kv * self.heads.dim,
        );
        let part = |start, len| qkv.narrow(1, start, len).and_then(|part| part.contiguous());
        let (mut keys, mut values) = (part(q, kv)?, part(q + kv, kv)?);
        if let Some((old_keys, old_values)) = cache.keys_and_values.take() {
            keys = Tensor::cat(&[&old_keys, &keys], 0)?;
            values = Tensor::cat(&[&old_values, &values], 0)?;
        }
        let sinks = self.sinks.get(x.dtype())?;
        let out = attention::cached(
            &part(0, q)?,
            &keys,
            &values,
            &sinks,
            self.heads,
            self.window,
        )?;
        let count = keys.dim(0)?;
        let keep = self.window.map_or(count, |window| count.min(window));
        let tail = |t: &Tensor| t.narrow(0, count - keep, keep).and_then(|t| t.contiguous());
        cache.keys_and_values = Some((tail(&keys)?, tail(&values)?));
        Ok(self.project_output(&out, &new.rows, None)?.0)
    }
}
