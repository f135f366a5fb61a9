//! Linear layers that read the same input: one product where their weights are frozen, one after another where not.

use super::fused_linear::{FusedLinear, Tape as FusedTape};
use super::linear::{Linear, Tape as LinearTape};
use super::param::Weight;
use super::updates::{self, SiteUpdates};
use crate::ops::Groups;
use crate::ops::dropout::Draws;
use anyhow::{Result, bail};
use candle_core::Tensor;

/// Layers whose outputs lie side by side.
#[derive(Debug)]
pub struct Projections<const N: usize> {
    layers: [Linear; N],
    /// The layers fused, unless one of their weights is trained.
    fused: Option<FusedLinear>,
}

/// What [`Projections::backward`] needs: the tape of the fused layers, or one of each layer.
#[derive(Debug)]
pub enum Tape<const N: usize> {
    /// Of one product.
    Fused(FusedTape),
    /// Of each layer.
    Separate([LinearTape; N]),
}

impl<const N: usize> Projections<N> {
    /// Fuses layers where that can be done.
    pub fn new(mut layers: [Linear; N]) -> Result<Self> {
        let fused = FusedLinear::new(&mut layers)?;
        Ok(Self { layers, fused })
    }

    /// The layers.
    pub fn layers(&self) -> &[Linear; N] {
        &self.layers
    }

    /// The layers, to be given low-rank updates.
    pub fn layers_mut(&mut self) -> &mut [Linear; N] {
        &mut self.layers
    }

    /// The matrices of all layers as one with their biases, where no weight is trained.
    pub fn joined(&self) -> Option<(&Weight, Option<&Tensor>)> {
        self.fused.as_ref().map(FusedLinear::parts)
    }

    /// The layers fused, if this pass can be computed so.
    fn fused(&self, dropout: bool) -> Option<&FusedLinear> {
        let fused = self.fused.as_ref();
        fused.filter(|_| FusedLinear::can_fuse(&self.layers, dropout))
    }

    /// Takes `x` `[T, I]` to the outputs of all layers side by side, `[T, O]`. `draws` switches dropout on; each layer has
    /// its own.
    pub fn forward(
        &self,
        x: &Tensor,
        rows: &Groups,
        draws: Option<&Draws>,
    ) -> Result<(Tensor, Tape<N>)> {
        if let Some(fused) = self.fused(draws.is_some()) {
            let (y, tape) = fused.forward(&self.layers, x, rows)?;
            return Ok((y, Tape::Fused(tape)));
        }
        let mut outputs = Vec::with_capacity(N);
        let mut tapes = Vec::with_capacity(N);
        for (number, layer) in self.layers.iter().enumerate() {
            let draws = draws.map(|draws| draws.of(number as u64));
            let (y, tape) = layer.forward(x, draws.as_ref())?;
            outputs.push(y);
            tapes.push(tape);
        }
        let Ok(tapes) = <[LinearTape; N]>::try_from(tapes) else {
            bail!("{N} layers have another number of tapes")
        };
        Ok((Tensor::cat(&outputs, 1)?, Tape::Separate(tapes)))
    }

    /// The same without a tape. With `updates` the layers' own updates are left out, and these are in their place.
    pub fn step(&self, x: &Tensor, rows: &Groups, updates: Option<SiteUpdates>) -> Result<Tensor> {
        match updates {
            None => Ok(self.forward(x, rows, None)?.0),
            Some(updates) => updates::add(self.base(x, rows)?, x, updates),
        }
    }

    /// The outputs of all layers without low-rank updates.
    fn base(&self, x: &Tensor, rows: &Groups) -> Result<Tensor> {
        match &self.fused {
            Some(fused) => fused.base(x, rows),
            None => {
                let outputs = self.layers.iter().map(|layer| layer.base(x));
                Ok(Tensor::cat(&outputs.collect::<Result<Vec<_>>>()?, 1)?)
            }
        }
    }

    /// Makes the tape of [`forward`](Self::forward) again, without the product where the tape does not need it.
    pub fn recompute(&self, x: &Tensor, rows: &Groups, draws: Option<&Draws>) -> Result<Tape<N>> {
        match self.fused(draws.is_some()) {
            Some(fused) => Ok(Tape::Fused(fused.tape(&self.layers, x, rows)?)),
            None => Ok(self.forward(x, rows, draws)?.1),
        }
    }

    /// Returns the gradient by `x` from `dy` `[T, O]`; trainable parts accumulate theirs.
    pub fn backward(&self, tape: &Tape<N>, dy: &Tensor, rows: &Groups) -> Result<Tensor> {
        match (tape, &self.fused) {
            (Tape::Fused(tape), Some(fused)) => fused.backward(&self.layers, tape, dy, rows),
            (Tape::Separate(tapes), _) => self.backward_separate(tapes, dy),
            (Tape::Fused(_), None) => bail!("a fused tape of layers that are not fused"),
        }
    }

    fn backward_separate(&self, tapes: &[LinearTape; N], dy: &Tensor) -> Result<Tensor> {
        let mut start = 0;
        let mut sum: Option<Tensor> = None;
        for (layer, tape) in self.layers.iter().zip(tapes) {
            let (_, outputs) = layer.dims();
            let dx = layer.backward(tape, &dy.narrow(1, start, outputs)?.contiguous()?)?;
            sum = Some(match sum {
                Some(sum) => (sum + dx)?,
                None => dx,
            });
            start += outputs;
        }
        match sum {
            Some(sum) => Ok(sum),
            None => bail!("a backward pass through no layers"),
        }
    }
}
