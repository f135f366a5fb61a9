//! The attention half of a layer: q, k, v projections, rotation, attention with sinks, output.

use super::linear::{Linear, Tape as LinearTape};
use super::param::Weight;
use crate::ops::attention::{self, Saved};
use crate::ops::rope::{self, RopeTable};
use crate::ops::{Heads, SeqLayout};
use anyhow::Result;
use candle_core::Tensor;

/// Grouped-query attention with sinks, full or sliding.
#[derive(Debug)]
pub struct Attention {
    /// Queries.
    pub q_proj: Linear,
    /// Keys.
    pub k_proj: Linear,
    /// Values.
    pub v_proj: Linear,
    /// Output.
    pub o_proj: Linear,
    /// A logit for each query head, `[Q]`.
    pub sinks: Weight,
    /// Heads.
    pub heads: Heads,
    /// Keys that a query sees, if the layer slides.
    pub window: Option<usize>,
}

/// Where the tokens of a batch stand.
#[derive(Debug, Clone)]
pub struct Place {
    /// Sequences.
    pub seqs: SeqLayout,
    /// Angles for all positions.
    pub rope: RopeTable,
}

/// What [`Attention::backward`] needs.
#[derive(Debug)]
pub struct Tape {
    q: LinearTape,
    k: LinearTape,
    v: LinearTape,
    o: LinearTape,
    /// Rotated `[q | k | v]`.
    qkv: Tensor,
    saved: Saved,
}

/// Keys and values of the tokens so far, rotated; `[n, KV D]` each.
#[derive(Debug, Default)]
pub struct KvCache {
    held: Option<(Tensor, Tensor)>,
}

impl Attention {
    fn project(
        &self,
        x: &Tensor,
        rope: &RopeTable,
        positions: &Tensor,
        seed: Option<u64>,
    ) -> Result<(Tensor, [LinearTape; 3])> {
        let with = |salt: u64| seed.map(|seed| seed.wrapping_add(salt));
        let (q, q_tape) = self.q_proj.forward(x, with(0))?;
        let (k, k_tape) = self.k_proj.forward(x, with(1))?;
        let (v, v_tape) = self.v_proj.forward(x, with(2))?;
        let qkv = Tensor::cat(&[q, k, v], 1)?;
        Ok((
            rope::apply(&qkv, rope, positions, self.heads, false)?,
            [q_tape, k_tape, v_tape],
        ))
    }

    /// Normed `x` `[T, H]` to `[T, H]`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn forward(&self, x: &Tensor, place: &Place, seed: Option<u64>) -> Result<(Tensor, Tape)> {
        let Place { seqs, rope } = place;
        let (qkv, [q, k, v]) = self.project(x, rope, &seqs.positions, seed)?;
        let sinks = self.sinks.get(qkv.dtype())?;
        let (out, lse) = attention::forward(&qkv, &sinks, seqs, self.heads, self.window)?;
        let (y, o) = self
            .o_proj
            .forward(&out, seed.map(|seed| seed.wrapping_add(3)))?;
        Ok((
            y,
            Tape {
                q,
                k,
                v,
                o,
                qkv,
                saved: Saved { out, lse },
            },
        ))
    }

    /// Gradient by `x` from `dy` `[T, H]`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn backward(&self, tape: &Tape, place: &Place, dy: &Tensor) -> Result<Tensor> {
        let Place { seqs, rope } = place;
        let dout = self.o_proj.backward(&tape.o, dy)?;
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
        self.sinks.accumulate(|| Ok(dsinks))?;
        let dqkv = rope::apply(&dqkv, rope, &seqs.positions, self.heads, true)?;
        let (q, kv) = (
            self.heads.q * self.heads.dim,
            self.heads.kv * self.heads.dim,
        );
        let part = |start, len| {
            dqkv.narrow(1, start, len)
                .and_then(|part| part.contiguous())
        };
        let dx = self.q_proj.backward(&tape.q, &part(0, q)?)?;
        let dx = (dx + self.k_proj.backward(&tape.k, &part(q, kv)?)?)?;
        Ok((dx + self.v_proj.backward(&tape.v, &part(q + kv, kv)?)?)?)
    }

    /// Normed new tokens `x` `[n, H]` at `positions` after those in `cache`, to `[n, H]`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn decode(
        &self,
        x: &Tensor,
        rope: &RopeTable,
        positions: &Tensor,
        cache: &mut KvCache,
    ) -> Result<Tensor> {
        let (qkv, _) = self.project(x, rope, positions, None)?;
        let (q, kv) = (
            self.heads.q * self.heads.dim,
            self.heads.kv * self.heads.dim,
        );
        let part = |start, len| qkv.narrow(1, start, len).and_then(|part| part.contiguous());
        let (mut keys, mut values) = (part(q, kv)?, part(q + kv, kv)?);
        if let Some((old_keys, old_values)) = cache.held.take() {
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
        let held = keys.dim(0)?;
        let keep = self.window.map_or(held, |window| held.min(window));
        let tail = |t: &Tensor| t.narrow(0, held - keep, keep).and_then(|t| t.contiguous());
        cache.held = Some((tail(&keys)?, tail(&values)?));
        Ok(self.o_proj.forward(&out, None)?.0)
    }
}
