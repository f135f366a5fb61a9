//! A dense MLP with a gate: `down(activation(gate(x), up(x)))`.

use super::linear::Linear;
use super::projections::{Projections, Tape as ProjectionTape};
use crate::ops::dropout::Draws;
use crate::ops::swiglu::Activation;
use crate::ops::{Groups, gated};
use anyhow::Result;
use candle_core::Tensor;

/// The layers' own numbers for dropout begin after those of attention.
const FIRST: u64 = 4;

/// Three matrices and an activation.
#[derive(Debug)]
pub struct DenseMlp {
    /// The projections to gates and values, `[F, H]` each.
    pub gate_up: Projections<2>,
    /// The projection back, `[H, F]`.
    pub down: Projections<1>,
    /// The activation.
    pub activation: Activation,
}

/// What [`DenseMlp::backward`] needs.
#[derive(Debug)]
pub struct Tape {
    input: ProjectionTape<2>,
    /// Gates and values side by side, `[T, 2 F]`.
    gate_up: Tensor,
    output: ProjectionTape<1>,
}

impl DenseMlp {
    /// The linear layers.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate_up.layers().iter().chain(self.down.layers())
    }

    /// The linear layers, to be given low-rank updates.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let down = self.down.layers_mut();
        self.gate_up.layers_mut().iter_mut().chain(down)
    }

    /// Returns the output for normed `x`, plus `residual` if there is one, all `[T, H]`. `draws` switches dropout on.
    pub fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        rows: &Groups,
        draws: Option<&Draws>,
    ) -> Result<(Tensor, Tape)> {
        let (gate_up, input, h) = self.up_to_activation(x, rows, draws)?;
        let (y, output) = self.down.forward(&h, rows, of(draws, 2).as_ref())?;
        let tape = Tape {
            input,
            gate_up,
            output,
        };
        let y = match residual {
            Some(residual) => (residual + y)?,
            None => y,
        };
        Ok((y, tape))
    }

    /// Computes gates and values with their tape, and the activation `[T, F]`.
    fn up_to_activation(
        &self,
        x: &Tensor,
        rows: &Groups,
        draws: Option<&Draws>,
    ) -> Result<(Tensor, ProjectionTape<2>, Tensor)> {
        let (gate_up, input) = self.gate_up.forward(x, rows, of(draws, 0).as_ref())?;
        let h = gated::forward(&gate_up, self.activation)?;
        Ok((gate_up, input, h))
    }

    /// Makes the tape of [`forward`](Self::forward) again.
    pub fn recompute(&self, x: &Tensor, rows: &Groups, draws: Option<&Draws>) -> Result<Tape> {
        let (gate_up, input, h) = self.up_to_activation(x, rows, draws)?;
        let output = self.down.recompute(&h, rows, of(draws, 2).as_ref())?;
        Ok(Tape {
            input,
            gate_up,
            output,
        })
    }

    /// Returns the gradient by `x` from `dout` `[T, H]`.
    pub fn backward(&self, tape: &Tape, dout: &Tensor, rows: &Groups) -> Result<Tensor> {
        let dh = self.down.backward(&tape.output, dout, rows)?;
        let dgate_up = gated::backward(&tape.gate_up, self.activation, &dh)?;
        self.gate_up.backward(&tape.input, &dgate_up, rows)
    }
}

fn of(draws: Option<&Draws>, number: u64) -> Option<Draws> {
    draws.map(|draws| draws.of(FIRST + number))
}
