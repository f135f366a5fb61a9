//! Embedding and layers. Forward goes layer by layer, backward in reverse.

use super::attention::BatchLayout;
use super::embedding::Embedding;
use super::layer::{DecoderLayer, Kept};
use super::linear::Linear;
use super::mixture::RouterLoad;
use super::neftune::Neftune;
use super::ready::{OnReady, Ready};
use super::rope::Angles;
use super::sharding::Units;
use crate::ops::dropout::Draws;
use crate::ops::{Groups, SeqLayout};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use std::sync::atomic::{AtomicUsize, Ordering};

/// An embedding and layers. A head is not part of it, since only some rows of the output go there.
#[derive(Debug)]
pub struct Decoder {
    /// The embedding.
    pub embedding: Embedding,
    /// The layers.
    pub layers: Vec<DecoderLayer>,
    /// The angles of the rotary embedding.
    pub angles: Angles,
    /// The device that it is on.
    pub device: Device,
    /// What the layers and the head have spread over ranks, if anything.
    pub units: Option<Units>,
    /// The first layer that a backward pass goes down to: nothing below it is trained for now.
    pub lowest_trained: AtomicUsize,
}

/// How to run forward.
#[derive(Debug, Clone, Default)]
pub struct ForwardOptions {
    /// Whether to keep what the backward pass needs.
    pub training: bool,
    /// The number of layers, counted from the last, that keep their tape; the others keep their input and run again.
    pub kept_layers: usize,
    /// The seed of dropout, the same in all passes of a step; `None` switches dropout off.
    pub dropout_seed: Option<u64>,
    /// The weight of the router's auxiliary loss; 0 leaves it out.
    pub aux_coef: f64,
    /// The noise on the embeddings, if there is any.
    pub neftune: Option<Neftune>,
}

/// What a forward pass keeps for the backward pass.
pub struct Pass {
    ids: Tensor,
    batch: BatchLayout,
    draws: Option<Draws>,
    options: ForwardOptions,
    /// The layers from this one on have kept something.
    lowest: usize,
    layers: Vec<Kept>,
    aux: Option<Aux>,
}

/// The router's auxiliary loss of a batch.
struct Aux {
    value: f64,
    /// The gradient by a token's router probabilities, before the coefficient: `E f_e / rows`, `[E]`.
    grad: Tensor,
}

impl Pass {
    /// The auxiliary loss, before its coefficient, if it was asked for.
    pub fn aux_loss(&self) -> Option<f64> {
        self.aux.as_ref().map(|aux| aux.value)
    }
}

impl Decoder {
    /// Runs token ids `[T]` u32 through all layers, to `[T, H]` before the final norm.
    ///
    /// # Errors
    /// A sequence is longer than the model allows, or an id is beyond the vocabulary.
    pub fn forward(
        &self,
        ids: &Tensor,
        seqs: &SeqLayout,
        options: &ForwardOptions,
    ) -> Result<(Tensor, Pass)> {
        let batch = self.batch_layout(seqs)?;
        let draws = self.draws(seqs, options)?;
        let mut x = self.embedding.forward(ids)?;
        if let Some(neftune) = &options.neftune {
            x = neftune.add(&x, seqs)?;
        }
        let (count, lowest) = (self.layers.len(), self.lowest());
        let mut kept = Vec::new();
        let mut loads = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            self.enter(index, Some(index + 1))?;
            let (y, tape) = layer
                .forward(&x, &batch, of_layer(&draws, index).as_ref())
                .with_context(|| format!("layer {index}"))?;
            if options.aux_coef != 0.0 {
                loads.extend(tape.mlp.router_load()?);
            }
            if options.training && index >= lowest {
                kept.push(if index + options.kept_layers >= count {
                    Kept::Tape(Box::new(tape))
                } else {
                    Kept::Input(x, tape.mlp.decisions())
                });
            }
            x = y;
        }
        self.enter_head(options.training)?;
        let aux = match loads.is_empty() {
            true => None,
            false => Some(self.aux(&loads, seqs.tokens())?),
        };
        let pass = Pass {
            ids: ids.clone(),
            batch,
            draws,
            options: options.clone(),
            lowest,
            layers: kept,
            aux,
        };
        Ok((x, pass))
    }

    /// Computes `E sum_e f_e P_e` (`transformers`' `load_balancing_loss_func`), where `f_e` is the share of rows that chose
    /// `e` and `P_e` its mean probability, over all layers with experts and all tokens.
    fn aux(&self, loads: &[RouterLoad], tokens: usize) -> Result<Aux> {
        let rows = (tokens * loads.len()) as f64;
        let mut chosen = vec![0usize; loads[0].chosen.len()];
        for load in loads {
            for (sum, count) in chosen.iter_mut().zip(&load.chosen) {
                *sum += count;
            }
        }
        let experts = chosen.len() as f64;
        let slope: Vec<f32> = chosen
            .iter()
            .map(|&c| (experts * c as f64 / rows / rows) as f32)
            .collect();
        let grad = Tensor::new(slope.as_slice(), &self.device)?;
        let probabilities: Vec<&Tensor> = loads.iter().map(|load| &load.probabilities).collect();
        let sum = Tensor::stack(&probabilities, 0)?.sum(0)?;
        let value = (sum * &grad)?.sum_all()?.to_scalar::<f32>()?;
        Ok(Aux {
            value: f64::from(value),
            grad,
        })
    }

    /// Runs backward from the gradient by the hidden states `[T, H]`; all parameters accumulate their gradients. The
    /// gradient of the auxiliary loss is multiplied by its coefficient and by `aux_scale`. `ready` hears of each layer and
    /// of the embedding when their gradients are complete; of layers below which nothing is trained for now it does not hear,
    /// since the pass ends above them.
    ///
    /// # Errors
    /// The forward pass was not made for training, or those of `ready`.
    pub fn backward(
        &self,
        pass: Pass,
        dhidden: Tensor,
        aux_scale: f64,
        ready: OnReady,
    ) -> Result<()> {
        let Pass {
            ids,
            batch,
            draws,
            options,
            lowest,
            layers,
            aux,
        } = pass;
        ensure!(
            lowest + layers.len() == self.layers.len(),
            "backward of a pass that was not for training"
        );
        let daux = match aux {
            Some(aux) => Some((aux.grad * (options.aux_coef * aux_scale))?),
            None => None,
        };
        let mut dx = dhidden;
        let trained = self.layers.iter().enumerate().skip(lowest);
        for ((index, layer), kept) in trained.zip(layers).rev() {
            self.enter(index, self.below(index, lowest))?;
            let draws = of_layer(&draws, index);
            dx = layer
                .backward(kept, &batch, draws.as_ref(), dx, daux.as_ref())
                .with_context(|| format!("layer {index}, backward"))?;
            ready(Ready::Layer(index))?;
        }
        self.embedding.backward(&ids, &dx)?;
        ready(Ready::Embedding)
    }

    /// The first layer that a backward pass goes down to.
    fn lowest(&self) -> usize {
        let lowest = self.lowest_trained.load(Ordering::Relaxed);
        lowest.min(self.layers.len())
    }

    /// The layer that a backward pass comes to after this one.
    fn below(&self, index: usize, lowest: usize) -> Option<usize> {
        index.checked_sub(1).filter(|&below| below >= lowest)
    }

    /// Makes the weights of a layer readable, and begins to gather those of the next one.
    pub(super) fn enter(&self, layer: usize, next: Option<usize>) -> Result<()> {
        match &self.units {
            Some(units) => units.enter(layer, next),
            None => Ok(()),
        }
    }

    /// Makes the weights of the head readable, which follow those of the layers; a backward pass begins with the last layer.
    pub(super) fn enter_head(&self, training: bool) -> Result<()> {
        let last = self.layers.len().checked_sub(1);
        let back = |&last: &usize| training && last >= self.lowest();
        self.enter(self.layers.len(), last.filter(back))
    }

    /// Makes the weights of one layer readable, outside of a pass. Where they are spread over ranks, all ranks do the same.
    ///
    /// # Errors
    /// A rank or the connection has failed.
    pub fn read_layer(&self, layer: usize) -> Result<()> {
        self.enter(layer, None)
    }

    /// Whether weights are spread over ranks, so that all ranks make the same passes.
    pub fn is_sharded(&self) -> bool {
        self.units.is_some()
    }

    /// Takes part in the gathering of a forward pass that other ranks make, without tokens.
    ///
    /// # Errors
    /// A rank or the connection has failed.
    pub fn idle_forward(&self, training: bool) -> Result<()> {
        for index in 0..self.layers.len() {
            self.enter(index, Some(index + 1))?;
        }
        self.enter_head(training)
    }

    /// The same for the backward pass, of which `ready` hears as of any other.
    ///
    /// # Errors
    /// A rank or the connection has failed, or those of `ready`.
    pub fn idle_backward(&self, ready: OnReady) -> Result<()> {
        let lowest = self.lowest();
        for index in (lowest..self.layers.len()).rev() {
            self.enter(index, self.below(index, lowest))?;
            ready(Ready::Layer(index))?;
        }
        ready(Ready::Embedding)
    }

    /// The first layer whose output for these tokens is not finite, if there is one; for error messages.
    pub fn first_non_finite_layer(&self, ids: &Tensor, seqs: &SeqLayout) -> Result<Option<usize>> {
        let batch = self.batch_layout(seqs)?;
        let mut x = self.embedding.forward(ids)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, &batch, None)?.0;
            let sum = x.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
            if !sum.is_finite() {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    /// What dropout draws in a pass; nothing where no layer has any.
    fn draws(&self, seqs: &SeqLayout, options: &ForwardOptions) -> Result<Option<Draws>> {
        let mut linears = self.layers.iter().flat_map(DecoderLayer::linears);
        let drops = |linear: &Linear| linear.lora.as_ref().is_some_and(|lora| lora.dropout > 0.0);
        match options.dropout_seed {
            Some(seed) if linears.any(drops) => {
                let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                Draws::new(seed, seqs, &self.device).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn batch_layout(&self, seqs: &SeqLayout) -> Result<BatchLayout> {
        Ok(BatchLayout {
            seqs: seqs.clone(),
            rope: self.angles.table(seqs.max_len)?,
            rows: Groups::one(seqs.tokens(), &self.device)?,
        })
    }
}

/// What a layer's dropout draws; no layer has more than 16 modules.
fn of_layer(draws: &Option<Draws>, index: usize) -> Option<Draws> {
    draws.as_ref().map(|draws| draws.of(16 * index as u64))
}
