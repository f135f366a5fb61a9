//! A linear layer with an optional low-rank update: LoRA (<https://arxiv.org/abs/2106.09685>), rsLoRA
//! (<https://arxiv.org/abs/2312.03732>) or DoRA (<https://arxiv.org/abs/2402.09353>), as `peft.tuners.lora.Linear`.

use super::param::{Param, Weight};
use super::tuned::{Tape as TunedTape, Tuned};
use crate::ops;
use crate::ops::dropout::Draws;
use crate::ops::lora::Pair;
use anyhow::{Context, Result};
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// A layer computes `y = x w^T + b`, `w` `[O, I]`.
#[derive(Debug)]
pub struct Linear {
    /// Path of the module: `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// `[O, I]`.
    pub weight: Weight,
    /// `[O]`.
    pub bias: Option<Weight>,
    /// The low-rank update.
    pub lora: Option<Lora>,
    /// A tuner, in place of a low-rank update.
    pub tuned: Option<Tuned>,
}

/// A low-rank update of a matrix.
#[derive(Debug)]
pub struct Lora {
    /// `[R, I]`.
    pub a: Arc<Param>,
    /// `[O, R]`.
    pub b: Arc<Param>,
    /// DoRA's magnitude `[O]`.
    pub magnitude: Option<Arc<Param>>,
    /// `alpha / r`, or `alpha / sqrt(r)`.
    pub scale: f64,
    /// The probability of dropping an input of A.
    pub dropout: f32,
}

/// What [`Linear::backward`] needs.
#[derive(Debug)]
pub struct Tape {
    x: Tensor,
    lora: Option<LoraTape>,
    tuned: Option<TunedTape>,
}

#[derive(Debug)]
struct LoraTape {
    xa: Tensor,
    draws: Option<Draws>,
    dora: Option<DoraTape>,
}

#[derive(Debug)]
struct DoraTape {
    /// `x (W + s B A)^T`, `[T, O]`.
    z: Tensor,
    /// The norm of each row of `W + s B A`, `[O]` f32.
    norm: Tensor,
    /// The magnitude divided by the norm, in the compute type.
    ratio: Tensor,
}

impl Linear {
    /// Takes `x` `[T, I]` to `[T, O]`. `draws` switches dropout on.
    pub fn forward(&self, x: &Tensor, draws: Option<&Draws>) -> Result<(Tensor, Tape)> {
        let Some(tuned) = &self.tuned else {
            return self.forward_untuned(x, draws);
        };
        let (y, tape, own) = tuned
            .forward(x, |x| self.forward_untuned(x, draws))
            .with_context(|| self.name.clone())?;
        let tuned = Some(tape);
        Ok((y, Tape { tuned, ..own }))
    }

    fn forward_untuned(&self, x: &Tensor, draws: Option<&Draws>) -> Result<(Tensor, Tape)> {
        let dtype = x.dtype();
        let w = self.weight.get(dtype)?;
        let bias = self.bias.as_ref().map(|b| b.get(dtype)).transpose()?;
        let Some(lora) = &self.lora else {
            let y = ops::linear::forward(x, &w, bias.as_ref())?;
            return Ok((
                y,
                Tape {
                    x: x.clone(),
                    lora: None,
                    tuned: None,
                },
            ));
        };
        let draws = draws.filter(|_| lora.dropout > 0.0).cloned();
        let (update, xa) = ops::lora::forward(&lora.dropped(x, &draws)?, &lora.pair())?;
        let (y, dora) = match &lora.magnitude {
            None => (
                (ops::linear::forward(x, &w, bias.as_ref())? + update)?,
                None,
            ),
            Some(magnitude) => {
                let z = (ops::linear::forward(x, &w, None)? + update)?;
                let norm = lora.merged(&w)?.sqr()?.sum(1)?.sqrt()?;
                let ratio = (magnitude.value() / &norm)?.to_dtype(dtype)?;
                let mut y = z.broadcast_mul(&ratio)?;
                if let Some(bias) = bias {
                    y = y.broadcast_add(&bias)?;
                }
                (y, Some(DoraTape { z, norm, ratio }))
            }
        };
        Ok((
            y,
            Tape {
                x: x.clone(),
                lora: Some(LoraTape { xa, draws, dora }),
                tuned: None,
            },
        ))
    }

    /// The same without the low-rank update.
    pub fn base(&self, x: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|b| b.get(x.dtype())).transpose()?;
        ops::linear::forward(x, &self.weight.get(x.dtype())?, bias.as_ref())
    }

    /// Returns the gradient by `x` from `dy` `[T, O]`; trainable parts accumulate theirs.
    pub fn backward(&self, tape: &Tape, dy: &Tensor) -> Result<Tensor> {
        match (&self.tuned, &tape.tuned) {
            (Some(tuned), Some(of_tuner)) => tuned
                .backward(of_tuner, dy, |dy| self.backward_untuned(tape, dy))
                .with_context(|| self.name.clone()),
            _ => self.backward_untuned(tape, dy),
        }
    }

    fn backward_untuned(&self, tape: &Tape, dy: &Tensor) -> Result<Tensor> {
        let w = self.weight.get(dy.dtype())?;
        if let Some(bias) = &self.bias {
            bias.accumulate(|| ops::linear::bias_grad(dy))?;
        }
        let (Some(lora), Some(saved)) = (&self.lora, &tape.lora) else {
            self.weight
                .accumulate(|| ops::linear::weight_grad(&tape.x, dy))?;
            return ops::linear::input_grad(dy, &w);
        };
        let mut dz = dy.clone();
        if let (Some(dora), Some(magnitude)) = (&saved.dora, &lora.magnitude) {
            if !magnitude.is_frozen() {
                let dm = (dy * &dora.z)?.to_dtype(DType::F32)?.sum(0)?;
                magnitude.accumulate((dm / &dora.norm)?)?;
            }
            dz = dy.broadcast_mul(&dora.ratio)?;
        }
        let pair = lora.pair();
        let (dx, dxa) = ops::lora::input_grad(&pair, &dz)?;
        if !lora.a.is_frozen() {
            let dropped = lora.dropped(&tape.x, &saved.draws)?;
            lora.a.accumulate(ops::lora::a_grad(&dropped, &dxa)?)?;
        }
        if !lora.b.is_frozen() {
            lora.b
                .accumulate(ops::lora::b_grad(&saved.xa, &pair, &dz)?)?;
        }
        Ok((ops::linear::input_grad(&dz, &w)? + lora.dropped(&dx, &saved.draws)?)?)
    }

    /// The number of inputs and of outputs.
    pub fn dims(&self) -> (usize, usize) {
        let dims = self.weight.dims();
        (dims[1], dims[0])
    }
}

impl Lora {
    fn pair(&self) -> Pair {
        Pair {
            a: self.a.value(),
            b: self.b.value(),
            scale: self.scale,
        }
    }

    fn dropped(&self, x: &Tensor, draws: &Option<Draws>) -> Result<Tensor> {
        match draws {
            Some(draws) => ops::dropout::apply(x, self.dropout, draws),
            None => Ok(x.clone()),
        }
    }

    /// Computes `W + scale B A` in f32, without DoRA's magnitude.
    pub fn merged(&self, w: &Tensor) -> Result<Tensor> {
        let delta = (self.b.value().matmul(&self.a.value())? * self.scale)?;
        Ok((w.to_dtype(DType::F32)? + delta)?)
    }

    /// The weight, f32, that computes without this update what `w` computes with it.
    pub fn merged_weight(&self, w: &Tensor) -> Result<Tensor> {
        let merged = self.merged(w)?;
        let Some(magnitude) = &self.magnitude else {
            return Ok(merged);
        };
        let ratio = (magnitude.value() / merged.sqr()?.sum(1)?.sqrt()?)?;
        Ok(merged.broadcast_mul(&ratio.unsqueeze(1)?)?)
    }

    /// Its parameters.
    pub fn params(&self) -> impl Iterator<Item = &Arc<Param>> {
        [&self.a, &self.b].into_iter().chain(&self.magnitude)
    }
}
