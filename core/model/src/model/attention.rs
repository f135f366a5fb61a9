//! The attention half of a layer: q, k, v projections, rotation, attention with sinks, output.

use super::joined::{Joined, Tape as JoinedTape};
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
    /// Queries.
    pub q_proj: Linear,
    /// Keys.
    pub k_proj: Linear,
    /// Values.
    pub v_proj: Linear,
    /// Output.
    pub o_proj: Linear,
    /// Queries, keys and values as one, unless a weight of them is trained.
    pub qkv: Option<Joined>,
    /// The output with its update in one sum, unless its weight is trained.
    pub o: Option<Joined>,
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
    /// All tokens as one group.
    pub rows: Groups,
}

/// Where new tokens of a generation stand.
#[derive(Debug)]
pub struct New {
    /// Angles for all positions.
    pub rope: RopeTable,
    /// Their positions, `[n]` u32.
    pub positions: Tensor,
    /// All of them as one group.
    pub rows: Groups,
}

/// What [`Attention::backward`] needs.
#[derive(Debug)]
pub struct Tape {
    input: Projections<3>,
    output: Projections<1>,
    /// Rotated `[q | k | v]`.
    qkv: Tensor,
    saved: Saved,
}

/// Tapes of projections, as one or each on its own.
#[derive(Debug)]
enum Projections<const N: usize> {
    Joined(JoinedTape),
    Apart([LinearTape; N]),
}

/// Keys and values of the tokens so far, rotated; `[n, KV D]` each.
#[derive(Debug, Default)]
pub struct KvCache {
    held: Option<(Tensor, Tensor)>,
}

impl Attention {
    fn inputs(&self) -> [&Linear; 3] {
        [&self.q_proj, &self.k_proj, &self.v_proj]
    }

    /// `[q | k | v]`, not yet rotated.
    fn project(
        &self,
        x: &Tensor,
        rows: &Groups,
        seed: Option<u64>,
    ) -> Result<(Tensor, Projections<3>)> {
        if let Some(qkv) = &self.qkv
            && Joined::takes(&self.inputs(), seed.is_some())
        {
            let (qkv, tape) = qkv.forward(&self.inputs(), x, rows)?;
            return Ok((qkv, Projections::Joined(tape)));
        }
        let with = |salt: u64| seed.map(|seed| seed.wrapping_add(salt));
        let (q, q_tape) = self.q_proj.forward(x, with(0))?;
        let (k, k_tape) = self.k_proj.forward(x, with(1))?;
        let (v, v_tape) = self.v_proj.forward(x, with(2))?;
        let tapes = Projections::Apart([q_tape, k_tape, v_tape]);
        Ok((Tensor::cat(&[q, k, v], 1)?, tapes))
    }

    fn put_out(
        &self,
        out: &Tensor,
        rows: &Groups,
        seed: Option<u64>,
    ) -> Result<(Tensor, Projections<1>)> {
        if let Some(o) = &self.o
            && Joined::takes(&[&self.o_proj], seed.is_some())
        {
            let (y, tape) = o.forward(&[&self.o_proj], out, rows)?;
            return Ok((y, Projections::Joined(tape)));
        }
        let seed = seed.map(|seed| seed.wrapping_add(3));
        let (y, tape) = self.o_proj.forward(out, seed)?;
        Ok((y, Projections::Apart([tape])))
    }

    /// Normed `x` `[T, H]` to `[T, H]`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn forward(&self, x: &Tensor, place: &Place, seed: Option<u64>) -> Result<(Tensor, Tape)> {
        let Place { seqs, rope, rows } = place;
        let (qkv, input) = self.project(x, rows, seed)?;
        let qkv = rope::apply(&qkv, rope, &seqs.positions, self.heads, false)?;
        let sinks = self.sinks.get(qkv.dtype())?;
        let (out, lse) = attention::forward(&qkv, &sinks, seqs, self.heads, self.window)?;
        let (y, output) = self.put_out(&out, rows, seed)?;
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

    /// Gradient by `x` from `dy` `[T, H]`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn backward(&self, tape: Tape, place: &Place, dy: &Tensor) -> Result<Tensor> {
        let Place { seqs, rope, rows } = place;
        let dout = match (&tape.output, &self.o) {
            (Projections::Joined(tape), Some(o)) => o.backward(&[&self.o_proj], tape, dy, rows)?,
            (Projections::Apart([tape]), _) => self.o_proj.backward(tape, dy)?,
            (Projections::Joined(_), None) => bail!("a joined tape of a layer that is not"),
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
            (Projections::Joined(tape), Some(qkv)) => {
                qkv.backward(&self.inputs(), tape, &dqkv, rows)
            }
            (Projections::Apart(tapes), _) => self.backward_apart(tapes, &dqkv),
            (Projections::Joined(_), None) => bail!("a joined tape of a layer that is not"),
        }
    }

    fn backward_apart(&self, [q, k, v]: &[LinearTape; 3], dqkv: &Tensor) -> Result<Tensor> {
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

    /// Normed new tokens `x` `[n, H]` after those in `cache`, to `[n, H]`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn decode(&self, x: &Tensor, at: &New, cache: &mut KvCache) -> Result<Tensor> {
        let (qkv, _) = self.project(x, &at.rows, None)?;
        let qkv = rope::apply(&qkv, &at.rope, &at.positions, self.heads, false)?;
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
        Ok(self.put_out(&out, &at.rows, None)?.0)
    }
}
