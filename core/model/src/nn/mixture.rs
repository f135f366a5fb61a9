//! A mixture of experts as the MLP of a layer: router, gate and up, activation, down and the weighted sum of experts.

use super::experts::{ExpertLinear, OutputGrad, Tape as MatrixTape};
use super::linear::{Linear, Tape as LinearTape};
use super::tuned::{Tape as TunedTape, Tuned};
use crate::ops::permute;
use crate::ops::router::{self, RoutePlan};
use crate::ops::swiglu::{self, Activation, RoutingWeights};
use anyhow::{Context, Result};
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
    /// A tuner around the experts. The router does not see it.
    pub tuned: Option<Tuned>,
}

impl Mixture {
    /// The tuners around the experts and in their matrices.
    pub fn tuners(&self) -> impl Iterator<Item = &Tuned> {
        let all = [&self.tuned, &self.gate_up.tuned, &self.down.tuned];
        all.into_iter().flatten()
    }
}

/// What [`Mixture::backward`] needs. Gathered rows and the activation are computed again there.
#[derive(Debug)]
pub struct Tape {
    router: LinearTape,
    logits: Tensor,
    weights: Tensor,
    plan: RoutePlan,
    experts: ExpertsTape,
    of_tuner: Option<TunedTape>,
}

/// What the experts' part of it needs.
#[derive(Debug)]
struct ExpertsTape {
    up: UpTape,
    of_down: MatrixTape,
}

/// The part of it that is there before the second matrix.
#[derive(Debug)]
struct UpTape {
    /// What the experts have read.
    x: Tensor,
    gate_up: Tensor,
    of_gate_up: MatrixTape,
}

impl Mixture {
    /// Returns the experts' weighted sum for normed `x`, plus `residual` if there is one, all `[T, H]`; with the routing of `plan`
    /// if there was an earlier time.
    pub fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        plan: Option<RoutePlan>,
    ) -> Result<(Tensor, Tape)> {
        let (logits, router) = self.logits(x)?;
        let plan = match plan {
            Some(plan) => plan,
            None => {
                let ids = router::top_k(&logits, self.experts_per_token)?;
                RoutePlan::new(&ids, logits.dim(1)?)?
            }
        };
        let weights = router::weights(&logits, &plan.ids)?;
        let (y, experts, of_tuner) = match &self.tuned {
            None => {
                let (y, tape) = self.experts(x, &weights, &plan, residual)?;
                (y, tape, None)
            }
            Some(tuned) => {
                let told = tuned.forward(x, |x| self.experts(x, &weights, &plan, None));
                let (y, of_tuner, tape) = told.context("experts")?;
                let y = match residual {
                    Some(residual) => (residual + y)?,
                    None => y,
                };
                (y, tape, Some(of_tuner))
            }
        };
        let tape = Tape {
            router,
            logits,
            weights,
            plan,
            experts,
            of_tuner,
        };
        Ok((y, tape))
    }

    /// Makes the tape of [`forward`](Self::forward) again, with the routing of the first time. It does not need the
    /// output of the experts, but for a tuner around them.
    pub fn recompute(&self, x: &Tensor, plan: RoutePlan) -> Result<Tape> {
        if self.tuned.is_some() {
            return Ok(self.forward(x, None, Some(plan))?.1);
        }
        let (logits, router) = self.logits(x)?;
        let weights = router::weights(&logits, &plan.ids)?;
        let (up, h) = self.up_to_activation(x, &plan)?;
        let of_down = self.down.recompute(&h, &plan.groups)?;
        Ok(Tape {
            router,
            logits,
            weights,
            plan,
            experts: ExpertsTape { up, of_down },
            of_tuner: None,
        })
    }

    fn experts(
        &self,
        x: &Tensor,
        weights: &Tensor,
        plan: &RoutePlan,
        residual: Option<&Tensor>,
    ) -> Result<(Tensor, ExpertsTape)> {
        let (up, h) = self.up_to_activation(x, plan)?;
        let (y, of_down) = self.down.forward(&h, &plan.groups)?;
        let y = permute::combine(&y, weights, plan, residual)?;
        Ok((y, ExpertsTape { up, of_down }))
    }

    pub(super) fn logits(&self, x: &Tensor) -> Result<(Tensor, LinearTape)> {
        let (logits, tape) = self.router.forward(x, None)?;
        Ok((logits.to_dtype(DType::F32)?, tape))
    }

    /// Computes everything up to the activation `[N, F]`, which it returns with the tape.
    fn up_to_activation(&self, x: &Tensor, plan: &RoutePlan) -> Result<(UpTape, Tensor)> {
        let rows = permute::gather(x, plan)?;
        let (gate_up, of_gate_up) = self.gate_up.forward(&rows, &plan.groups)?;
        drop(rows);
        let h = swiglu::forward(&gate_up, self.activation)?;
        let tape = UpTape {
            x: x.clone(),
            gate_up,
            of_gate_up,
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
            router,
            logits,
            weights,
            plan,
            experts,
            of_tuner,
        } = tape;
        let by_router = |dweights: &Tensor| {
            let dlogits = self.by_logits(&logits, (&weights, dweights), &plan, daux)?;
            self.router
                .backward(&router, &dlogits.to_dtype(dout.dtype())?)
        };
        let (Some(tuned), Some(of_tuner)) = (&self.tuned, of_tuner) else {
            let (dxs, dweights) = self.experts_backward(experts, &weights, &plan, dout)?;
            return permute::gather_backward(&dxs, &plan, Some(&by_router(&dweights)?));
        };
        let mut dweights = None;
        let dx = tuned.backward(&of_tuner, dout, |dout| {
            let (dxs, by_weights) = self.experts_backward(experts, &weights, &plan, dout)?;
            dweights = Some(by_weights);
            permute::gather_backward(&dxs, &plan, None)
        });
        let (dx, dweights) = (dx.context("experts")?, dweights.context("no gradient")?);
        Ok((dx + by_router(&dweights)?)?)
    }

    /// The gradients by the rows of the experts and by the weights of their sum.
    fn experts_backward(
        &self,
        tape: ExpertsTape,
        weights: &Tensor,
        plan: &RoutePlan,
        dout: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let ExpertsTape { up, of_down } = tape;
        let UpTape {
            x,
            gate_up,
            of_gate_up,
        } = up;
        let groups = &plan.groups;
        let by_row = weights.flatten_all()?.index_select(&plan.order, 0)?;
        let dy = OutputGrad {
            rows: permute::gather(dout, plan)?,
            weights: Some(by_row),
        };
        let h = || swiglu::forward(&gate_up, self.activation);
        // With a tuner the output is no product of what the activation gives, and the gradient has passed the weights already.
        let of_tuner = of_down.tuned_output().map(|output| {
            let dots = (output? * dy.rows.to_dtype(DType::F32)?)?.sum(1)?;
            let dweights = dots.index_select(&plan.inverse, 0)?;
            Ok::<_, anyhow::Error>(dweights.reshape(weights.dims())?)
        });
        let of_tuner = of_tuner.transpose()?;
        let dh = self.down.backward(h, &of_down, dy, groups)?;
        let ones = of_tuner.is_some().then(|| weights.ones_like());
        let ones = ones.transpose()?;
        let routing = RoutingWeights {
            weights: ones.as_ref().unwrap_or(weights),
            plan,
            by_bias: &self.by_bias(dout, plan.groups.count())?,
        };
        let (dgate_up, dweights) = swiglu::backward(gate_up, self.activation, &dh, routing)?;
        drop(dh);
        let dy = OutputGrad {
            rows: dgate_up,
            weights: None,
        };
        let rows = || permute::gather(&x, plan);
        let dxs = self.gate_up.backward(rows, &of_gate_up, dy, groups)?;
        Ok((dxs, of_tuner.unwrap_or(dweights)))
    }

    /// The gradient by the router's logits.
    fn by_logits(
        &self,
        logits: &Tensor,
        (weights, dweights): (&Tensor, &Tensor),
        plan: &RoutePlan,
        daux: Option<&Tensor>,
    ) -> Result<Tensor> {
        let experts = logits.dim(1)?;
        let dlogits = router::weights_backward(weights, &plan.ids, dweights, experts)?;
        let Some(daux) = daux else {
            return Ok(dlogits);
        };
        let p = probabilities(logits)?;
        let mean = p.broadcast_mul(daux)?.sum_keepdim(D::Minus1)?;
        let pull = daux.broadcast_sub(&mean)?;
        Ok((dlogits + (p * pull)?)?)
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
