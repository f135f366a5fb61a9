//! A mixture of experts as the MLP of a layer: router, gate and up, activation, down and the weighted sum of experts.

use super::experts::{ExpertLinear, OutputGrad};
use super::linear::{Linear, Tape as LinearTape};
use crate::ops::lora::PackTape;
use crate::ops::permute;
use crate::ops::router::{self, RoutePlan};
use crate::ops::swiglu::{self, Activation, RoutingWeights};
use anyhow::Result;
use candle_core::{D, DType, Tensor};

/// The router and the experts.
#[derive(Debug)]
pub struct Mixture {
    /// The router `[E, H]`.
    pub router: Linear,
    /// The first matrix of each expert, `[H, 2 F]`, gate and up interleaved.
    pub gate_up: ExpertLinear,
    /// The second matrix of each expert, `[F, H]`.
    pub down: ExpertLinear,
    /// The number of experts that a token uses.
    pub experts_per_token: usize,
    /// The activation of the experts.
    pub activation: Activation,
}

/// What [`Mixture::backward`] needs. Gathered rows and the activation are computed again there.
#[derive(Debug)]
pub struct Tape {
    x: Tensor,
    router: LinearTape,
    logits: Tensor,
    weights: Tensor,
    plan: RoutePlan,
    gate_up: Tensor,
    gate_up_lora: Option<PackTape>,
    down_lora: Option<PackTape>,
}

impl Mixture {
    /// Returns `residual` plus the experts' weighted sum for normed `x`, all `[T, H]`.
    pub fn forward(&self, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tape)> {
        let (logits, router) = self.logits(x)?;
        let plan = RoutePlan::new(
            &router::top_k(&logits, self.experts_per_token)?,
            logits.dim(1)?,
        )?;
        let (tape, h) = self.up_to_activation(x, (logits, router), plan)?;
        let y = self
            .down
            .forward(&h, tape.down_lora.as_ref(), &tape.plan.groups)?;
        let out = permute::combine(&y, &tape.weights, &tape.plan, Some(residual))?;
        Ok((out, tape))
    }

    /// Makes the tape of [`forward`](Self::forward) again, with the routing of the first time. It does not need the
    /// output of the experts.
    pub fn recompute(&self, x: &Tensor, plan: RoutePlan) -> Result<Tape> {
        let router = self.logits(x)?;
        Ok(self.up_to_activation(x, router, plan)?.0)
    }

    pub(super) fn logits(&self, x: &Tensor) -> Result<(Tensor, LinearTape)> {
        let (logits, tape) = self.router.forward(x, None)?;
        Ok((logits.to_dtype(DType::F32)?, tape))
    }

    /// Computes everything up to the activation `[N, F]`, which it returns with the tape.
    fn up_to_activation(
        &self,
        x: &Tensor,
        (logits, router): (Tensor, LinearTape),
        plan: RoutePlan,
    ) -> Result<(Tape, Tensor)> {
        let weights = router::weights(&logits, &plan.ids)?;
        let rows = permute::gather(x, &plan)?;
        let gate_up_lora = self.gate_up.lora_tape(&rows, &plan.groups)?;
        let gate_up = self
            .gate_up
            .forward(&rows, gate_up_lora.as_ref(), &plan.groups)?;
        drop(rows);
        let h = swiglu::forward(&gate_up, self.activation)?;
        let down_lora = self.down.lora_tape(&h, &plan.groups)?;
        let tape = Tape {
            x: x.clone(),
            router,
            logits,
            weights,
            plan,
            gate_up,
            gate_up_lora,
            down_lora,
        };
        Ok((tape, h))
    }

    /// The gradient of each token's sum by the bias of each expert, times that bias, `[T, E]`.
    fn by_bias(&self, dout: &Tensor, experts: usize) -> Result<Tensor> {
        match &self.down.bias {
            Some(bias) => Ok(dout.matmul(&bias.get(dout.dtype())?.t()?)?),
            None => {
                let shape = (dout.dim(0)?, experts);
                Ok(Tensor::zeros(shape, dout.dtype(), dout.device())?)
            }
        }
    }

    /// Returns the gradient by `x` from `dout` `[T, H]`. `daux` `[E]` is the gradient of the auxiliary loss by the mean
    /// router probability of each expert, spread over tokens.
    pub fn backward(&self, tape: Tape, dout: &Tensor, daux: Option<&Tensor>) -> Result<Tensor> {
        let Tape {
            x,
            router,
            logits,
            weights,
            plan,
            gate_up,
            gate_up_lora,
            down_lora,
        } = tape;
        let groups = &plan.groups;
        let by_row = weights.flatten_all()?.index_select(&plan.order, 0)?;
        let dy = OutputGrad {
            rows: permute::gather(dout, &plan)?,
            weights: Some(by_row),
        };
        let h = || swiglu::forward(&gate_up, self.activation);
        let dh = self.down.backward(h, down_lora.as_ref(), dy, groups)?;
        let routing = RoutingWeights {
            weights: &weights,
            plan: &plan,
            by_bias: &self.by_bias(dout, plan.groups.count())?,
        };
        let (dgate_up, dweights) = swiglu::backward(gate_up, self.activation, &dh, routing)?;
        drop(dh);
        let dy = OutputGrad {
            rows: dgate_up,
            weights: None,
        };
        let rows = || permute::gather(&x, &plan);
        let dxs = self
            .gate_up
            .backward(rows, gate_up_lora.as_ref(), dy, groups)?;

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

/// How a router spread the tokens of a batch over the experts.
#[derive(Debug)]
pub struct RouterLoad {
    /// The sum of the router's probabilities over tokens, `[E]` f32.
    pub probabilities: Tensor,
    /// The number of tokens that chose each expert.
    pub chosen: Vec<usize>,
}

impl Tape {
    /// Which token went to which expert.
    pub fn plan(&self) -> &RoutePlan {
        &self.plan
    }

    /// How the router spread the tokens.
    pub fn router_load(&self) -> Result<RouterLoad> {
        let probabilities = probabilities(&self.logits)?.sum(0)?;
        let offsets = self.plan.groups.host_offsets()?.windows(2);
        Ok(RouterLoad {
            probabilities,
            chosen: offsets.map(|pair| pair[1] - pair[0]).collect(),
        })
    }
}

fn probabilities(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits
        .broadcast_sub(&logits.max_keepdim(D::Minus1)?)?
        .exp()?;
    Ok(shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?)
}
