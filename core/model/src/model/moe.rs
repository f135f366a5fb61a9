//! The mixture-of-experts half of a layer: router, gate-up, activation, down, weighted sum.

use super::experts::{Dy, ExpertLinear};
use super::linear::{Linear, Tape as LinearTape};
use crate::ops::lora::Lowered;
use crate::ops::permute;
use crate::ops::router::{self, RoutePlan};
use crate::ops::swiglu::{self, Weighing};
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
    gate_up_low: Option<Lowered>,
    down_low: Option<Lowered>,
}

impl Moe {
    /// `residual` plus the experts' sum of normed `x`, all `[T, H]`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tape)> {
        let (logits, router) = self.logits(x)?;
        let plan = RoutePlan::new(&router::top_k(&logits, self.k)?, logits.dim(1)?)?;
        let (tape, h) = self.open(x, (logits, router), plan)?;
        let y = self
            .down
            .forward(&h, tape.down_low.as_ref(), &tape.plan.groups)?;
        let out = permute::combine(&y, &tape.weights, &tape.plan, Some(residual))?;
        Ok((out, tape))
    }

    /// The tape of [`forward`](Self::forward) once more, tokens going where they went; the output of the experts is not needed for it.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn again(&self, x: &Tensor, plan: RoutePlan) -> Result<Tape> {
        let router = self.logits(x)?;
        Ok(self.open(x, router, plan)?.0)
    }

    fn logits(&self, x: &Tensor) -> Result<(Tensor, LinearTape)> {
        let (logits, tape) = self.router.forward(x, None)?;
        Ok((logits.to_dtype(DType::F32)?, tape))
    }

    /// Up to the activation `[N, F]`.
    fn open(
        &self,
        x: &Tensor,
        (logits, router): (Tensor, LinearTape),
        plan: RoutePlan,
    ) -> Result<(Tape, Tensor)> {
        let weights = router::weights(&logits, &plan.ids)?;
        let rows = permute::gather(x, &plan)?;
        let gate_up_low = self.gate_up.lower(&rows, &plan.groups)?;
        let gate_up = self
            .gate_up
            .forward(&rows, gate_up_low.as_ref(), &plan.groups)?;
        drop(rows);
        let h = swiglu::forward(&gate_up, self.limit)?;
        let down_low = self.down.lower(&h, &plan.groups)?;
        let tape = Tape {
            x: x.clone(),
            router,
            logits,
            weights,
            plan,
            gate_up,
            gate_up_low,
            down_low,
        };
        Ok((tape, h))
    }

    /// Gradient by `x` from `dout` `[T, H]`. `daux` `[E]` is the gradient of the auxiliary loss by
    /// the mean router probability of each expert, spread over tokens.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn backward(&self, tape: Tape, dout: &Tensor, daux: Option<&Tensor>) -> Result<Tensor> {
        let Tape {
            x,
            router,
            logits,
            weights,
            plan,
            gate_up,
            gate_up_low,
            down_low,
        } = tape;
        let groups = &plan.groups;
        let by_row = weights.flatten_all()?.index_select(&plan.order, 0)?;
        let dy = Dy {
            rows: permute::gather(dout, &plan)?,
            weights: Some(by_row),
        };
        let h = || swiglu::forward(&gate_up, self.limit);
        let dh = self.down.backward(h, down_low.as_ref(), dy, groups)?;
        let bias = self.down.bias.get(dout.dtype())?;
        let weighing = Weighing {
            weights: &weights,
            plan: &plan,
            by_bias: &dout.matmul(&bias.t()?)?,
        };
        let (dgate_up, dweights) = swiglu::backward(gate_up, self.limit, &dh, weighing)?;
        drop(dh);
        let dy = Dy {
            rows: dgate_up,
            weights: None,
        };
        let rows = || permute::gather(&x, &plan);
        let dxs = self
            .gate_up
            .backward(rows, gate_up_low.as_ref(), dy, groups)?;

        let experts = logits.dim(1)?;
        let mut dlogits = router::weights_backward(&weights, &plan.ids, &dweights, experts)?;
        if let Some(daux) = daux {
            let p = probabilities(&logits)?;
            let mean = p.broadcast_mul(daux)?.sum_keepdim(D::Minus1)?;
            let pull = daux.broadcast_sub(&mean)?;
            dlogits = (dlogits + (p * pull)?)?;
        }
        let by_router = self
            .router
            .backward(&router, &dlogits.to_dtype(x.dtype())?)?;
        permute::gather_backward(&dxs, &plan, Some(&by_router))
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
