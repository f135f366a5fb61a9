//! The mixture-of-experts half of a layer: router, gate-up, activation, down, weighted sum.

use super::experts::ExpertLinear;
use super::linear::{Linear, Tape as LinearTape};
use crate::ops::router::{self, RoutePlan};
use crate::ops::{permute, swiglu};
use anyhow::Result;
use candle_core::{D, DType, Tensor};

/// Router and experts.
#[derive(Debug)]
pub struct Moe {
    /// `[E, H]` with bias.
    pub router: Linear,
    /// `[H, 2 F]` for each expert, gate and up interleaved.
    pub gate_up: ExpertLinear,
    /// `[F, H]` for each expert.
    pub down: ExpertLinear,
    /// Experts a token.
    pub k: usize,
    /// Bound in the activation.
    pub limit: f32,
}

/// What [`Moe::backward`] needs. Gathered rows and the activation are computed again there.
#[derive(Debug)]
pub struct Tape {
    x: Tensor,
    router: LinearTape,
    logits: Tensor,
    weights: Tensor,
    /// Where tokens went.
    pub plan: RoutePlan,
    gate_up: Tensor,
    gate_up_xa: Option<Tensor>,
    down_xa: Option<Tensor>,
    y: Tensor,
}

impl Moe {
    /// Normed `x` `[T, H]` to `[T, H]`; with a `plan`, tokens go where they went before.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn forward(&self, x: &Tensor, plan: Option<&RoutePlan>) -> Result<(Tensor, Tape)> {
        let (logits, router) = self.router.forward(x, None)?;
        let logits = logits.to_dtype(DType::F32)?;
        let experts = logits.dim(1)?;
        let plan = match plan {
            Some(plan) => plan.clone(),
            None => RoutePlan::new(&router::top_k(&logits, self.k)?, experts)?,
        };
        let weights = router::weights(&logits, &plan.ids)?;
        let (gate_up, gate_up_xa) = self
            .gate_up
            .forward(&permute::gather(x, &plan)?, &plan.groups)?;
        let h = swiglu::forward(&gate_up, self.limit)?;
        let (y, down_xa) = self.down.forward(&h, &plan.groups)?;
        let out = permute::combine(&y, &weights, &plan)?;
        let tape = Tape {
            x: x.clone(),
            router,
            logits,
            weights,
            plan,
            gate_up,
            gate_up_xa,
            down_xa,
            y,
        };
        Ok((out, tape))
    }

    /// Gradient by `x` from `dout` `[T, H]`. `daux` `[E]` is the gradient of the auxiliary loss by
    /// the mean router probability of each expert, spread over tokens.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn backward(&self, tape: &Tape, dout: &Tensor, daux: Option<&Tensor>) -> Result<Tensor> {
        let Tape {
            x, plan, gate_up, ..
        } = tape;
        let (dy, dweights) = permute::combine_backward(&tape.y, &tape.weights, plan, dout)?;
        let groups = &plan.groups;
        let h = || swiglu::forward(gate_up, self.limit);
        let dh = self.down.backward(h, tape.down_xa.as_ref(), &dy, groups)?;
        let dgate_up = swiglu::backward(gate_up, self.limit, &dh)?;
        let rows = || permute::gather(x, plan);
        let dxs = self
            .gate_up
            .backward(rows, tape.gate_up_xa.as_ref(), &dgate_up, groups)?;
        let dx = permute::gather_backward(&dxs, plan)?;

        let experts = tape.logits.dim(1)?;
        let mut dlogits = router::weights_backward(&tape.weights, &plan.ids, &dweights, experts)?;
        if let Some(daux) = daux {
            let p = probabilities(&tape.logits)?;
            let mean = p.broadcast_mul(daux)?.sum_keepdim(D::Minus1)?;
            let pull = daux.broadcast_sub(&mean)?;
            dlogits = (dlogits + (p * pull)?)?;
        }
        let dlogits = dlogits.to_dtype(x.dtype())?;
        Ok((dx + self.router.backward(&tape.router, &dlogits)?)?)
    }
}

impl Tape {
    /// Sum over tokens of the router's probabilities over all experts, `[E]` f32.
    ///
    /// # Errors
    /// The device failed.
    pub fn probability_sum(&self) -> Result<Tensor> {
        Ok(probabilities(&self.logits)?.sum(0)?)
    }
}

fn probabilities(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits
        .broadcast_sub(&logits.max_keepdim(D::Minus1)?)?
        .exp()?;
    Ok(shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?)
}
