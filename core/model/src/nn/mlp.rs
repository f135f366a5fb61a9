//! What follows attention in a layer: a dense MLP, or a mixture of experts. The layer sees no difference.

use super::dense_mlp::{DenseMlp, Tape as DenseTape};
use super::experts::ExpertLinear;
use super::linear::Linear;
use super::mixture::{Mixture, RouterLoad, Tape as MixtureTape};
use crate::ops::Groups;
use crate::ops::dropout::Draws;
use crate::ops::router::RoutePlan;
use anyhow::{Result, bail};
use candle_core::Tensor;

/// An MLP of either kind.
#[derive(Debug)]
pub enum Mlp {
    /// One MLP for all tokens.
    Dense(Box<DenseMlp>),
    /// Experts, of which each token uses some.
    Mixture(Box<Mixture>),
}

/// What [`Mlp::backward`] needs.
#[derive(Debug)]
pub enum Tape {
    /// Of a dense MLP.
    Dense(Box<DenseTape>),
    /// Of a mixture.
    Mixture(Box<MixtureTape>),
}

/// What a forward pass decided, so that it is decided the same when the layer runs again.
#[derive(Debug)]
pub struct Decisions(Option<RoutePlan>);

impl Tape {
    /// What the forward pass decided.
    pub fn decisions(&self) -> Decisions {
        match self {
            Self::Dense(_) => Decisions(None),
            Self::Mixture(tape) => Decisions(Some(tape.plan().clone())),
        }
    }

    /// How the router spread the tokens, if there is one.
    pub fn router_load(&self) -> Result<Option<RouterLoad>> {
        match self {
            Self::Dense(_) => Ok(None),
            Self::Mixture(tape) => tape.router_load().map(Some),
        }
    }
}

impl Mlp {
    /// Returns the output for normed `x`, plus `residual` if there is one, all `[T, H]`; `rows` are all tokens as one group.
    /// `draws` switches dropout on, and `decisions` are those of an earlier time, if there was one.
    pub fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        decisions: Option<Decisions>,
        rows: &Groups,
        draws: Option<&Draws>,
    ) -> Result<(Tensor, Tape)> {
        match self {
            Self::Dense(mlp) => {
                let (y, tape) = mlp.forward(x, residual, rows, draws)?;
                Ok((y, Tape::Dense(Box::new(tape))))
            }
            Self::Mixture(mixture) => {
                let plan = decisions.and_then(|Decisions(plan)| plan);
                let (y, tape) = mixture.forward(x, residual, plan)?;
                Ok((y, Tape::Mixture(Box::new(tape))))
            }
        }
    }

    /// Makes the tape of [`forward`](Self::forward) again, by the decisions of the first time.
    pub fn recompute(
        &self,
        x: &Tensor,
        decisions: Decisions,
        rows: &Groups,
        draws: Option<&Draws>,
    ) -> Result<Tape> {
        match (self, decisions) {
            (Self::Dense(mlp), Decisions(None)) => {
                Ok(Tape::Dense(Box::new(mlp.recompute(x, rows, draws)?)))
            }
            (Self::Mixture(mixture), Decisions(Some(plan))) => {
                Ok(Tape::Mixture(Box::new(mixture.recompute(x, plan)?)))
            }
            _ => bail!("the decisions of an MLP of another kind"),
        }
    }

    /// Returns the gradient by `x` from `dout` `[T, H]`. `daux` `[E]` is the gradient of the auxiliary loss by the mean router
    /// probability of each expert, spread over tokens.
    pub fn backward(
        &self,
        tape: Tape,
        dout: &Tensor,
        rows: &Groups,
        daux: Option<&Tensor>,
    ) -> Result<Tensor> {
        match (self, tape) {
            (Self::Dense(mlp), Tape::Dense(tape)) => mlp.backward(&tape, dout, rows),
            (Self::Mixture(mixture), Tape::Mixture(tape)) => mixture.backward(*tape, dout, daux),
            _ => bail!("the tape of an MLP of another kind"),
        }
    }

    /// The mixture, if it is one.
    pub fn mixture(&self) -> Option<&Mixture> {
        match self {
            Self::Dense(_) => None,
            Self::Mixture(mixture) => Some(mixture),
        }
    }

    /// The linear layers that may have low-rank updates.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        let dense = match self {
            Self::Dense(mlp) => Some(mlp.linears()),
            Self::Mixture(_) => None,
        };
        dense.into_iter().flatten()
    }

    /// The linear layers, to be given low-rank updates.
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let dense = match self {
            Self::Dense(mlp) => Some(mlp.linears_mut()),
            Self::Mixture(_) => None,
        };
        dense.into_iter().flatten()
    }

    /// The experts' matrices, gate and up first.
    pub fn experts(&self) -> impl Iterator<Item = &ExpertLinear> {
        let mixture = self.mixture().map(|m| [&m.gate_up, &m.down]);
        mixture.into_iter().flatten()
    }
}
