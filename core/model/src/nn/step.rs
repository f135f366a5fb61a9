//! A step of generation: new tokens of several sequences through all layers at once, with the keys and values of earlier tokens in
//! pages. This is the one place through which answers go.

use super::attention::Attention;
use super::decoder::Decoder;
use super::dense_mlp::DenseMlp;
use super::layer::DecoderLayer;
use super::mixture::Mixture;
use super::mlp::Mlp;
use super::paged_cache::{LayerPool, PagedCache};
use super::updates::{RowUpdates, StepRows, StepUpdates};
use crate::ops::paged::{self, HostLayout, PagedLayout};
use crate::ops::rope::RopeTable;
use crate::ops::router::{self, RoutePlan};
use crate::ops::{Groups, gated, lora, permute, swiglu};
use anyhow::{Context, Result, ensure};
use candle_core::Tensor;

/// The tokens of a step and where they stand.
#[derive(Debug)]
pub struct Step<'a> {
    /// The tokens `[T]` of all sequences, one sequence after another.
    pub ids: &'a [u32],
    /// The layout for each kind of layers, which differ in slots and pages alone.
    pub layouts: &'a [PagedLayout],
    /// For each token the number of its adapter among `updates`, or [`lora::NO_UPDATE`].
    pub adapters: &'a [u32],
    /// The adapters in place of the model's own updates; `None` leaves these.
    pub updates: Option<&'a RowUpdates>,
}

impl Decoder {
    /// Runs new tokens to their hidden states `[T, H]` before the final norm, and puts their keys and values into the cache.
    ///
    /// # Errors
    /// Parts of the step do not fit, a position is beyond the model's, or the device has failed.
    pub fn step(&self, step: &Step, cache: &PagedCache) -> Result<Tensor> {
        let tokens = step.ids.len();
        ensure!(
            step.layouts.len() == cache.kinds().len()
                && step.layouts.iter().all(|layout| layout.tokens() == tokens)
                && step.adapters.len() == tokens,
            "a step of {tokens} tokens, {} adapters and {} layouts for layers of {} kinds",
            step.adapters.len(),
            step.layouts.len(),
            cache.kinds().len()
        );
        if let Some(units) = &self.units {
            units.lead()?;
        }
        let longest = step.layouts.iter().flat_map(|l| &l.host().lengths).max();
        let rope = self
            .angles
            .table(longest.map_or(0, |&length| length as usize))?;
        let any = step.updates.is_some() && step.adapters.iter().any(|&at| at != lora::NO_UPDATE);
        let adapters = any.then(|| Tensor::new(step.adapters, &self.device));
        let rows = StepRows {
            all: Groups::one(tokens, &self.device)?,
            adapters: adapters.transpose()?,
        };
        let mut x = self
            .embedding
            .forward(&Tensor::new(step.ids, &self.device)?)?;
        for (index, (layer, pool)) in self.layers.iter().zip(cache.layers()).enumerate() {
            self.enter(index, Some(index + 1))?;
            let updates = match step.updates {
                None => StepUpdates::Own,
                Some(updates) => {
                    let own = updates.layers.get(index);
                    let own = own.with_context(|| format!("layer {index} has no updates"))?;
                    StepUpdates::Rows(own, rows.adapters.as_ref())
                }
            };
            let places = (&step.layouts[pool.kind], &rope);
            x = layer
                .step(&x, places, &rows, pool, updates)
                .with_context(|| format!("layer {index}"))?;
        }
        self.enter_head(false)?;
        Ok(x)
    }
}

impl Decoder {
    /// Runs new tokens from a position on of one sequence that has the cache for itself, without adapters.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_alone(&self, ids: &[u32], from: usize, cache: &PagedCache) -> Result<Tensor> {
        let host = HostLayout::alone(from..from + ids.len());
        let layout = PagedLayout::new(host, &self.device)?;
        let step = Step {
            ids,
            layouts: &vec![layout; cache.kinds().len()],
            adapters: &vec![lora::NO_UPDATE; ids.len()],
            updates: None,
        };
        self.step(&step, cache)
    }
}

impl DecoderLayer {
    fn step(
        &self,
        x: &Tensor,
        places: (&PagedLayout, &RopeTable),
        rows: &StepRows,
        pool: &LayerPool,
        updates: StepUpdates,
    ) -> Result<Tensor> {
        let run = |x: &Tensor| self.step_untuned(x, places, rows, pool, updates);
        match &self.tuned.layer {
            None => run(x),
            Some(tuned) => tuned.step(x, run),
        }
    }

    fn step_untuned(
        &self,
        x: &Tensor,
        places: (&PagedLayout, &RopeTable),
        rows: &StepRows,
        pool: &LayerPool,
        updates: StepUpdates,
    ) -> Result<Tensor> {
        let normed = self.input_norm.forward(x)?;
        let attended = self
            .attention
            .step(&normed, places, &rows.all, pool, updates)?;
        let (middle, normed) = self.post_norm.forward_sum(x, &attended)?;
        let run = |x: &Tensor, residual: Option<&Tensor>| match &self.mlp {
            Mlp::Dense(mlp) => mlp.step(x, residual, &rows.all, updates),
            Mlp::Mixture(mixture) => mixture.step(x, residual, updates),
        };
        match &self.tuned.mlp {
            None => run(&normed, Some(&middle)),
            Some(tuned) => {
                let y = tuned.step(&normed, |x| run(x, None)).context("mlp")?;
                Ok((middle + y)?)
            }
        }
    }
}

impl Attention {
    fn step(
        &self,
        x: &Tensor,
        (layout, rope): (&PagedLayout, &RopeTable),
        rows: &Groups,
        pool: &LayerPool,
        updates: StepUpdates,
    ) -> Result<Tensor> {
        let mut qkv = self.qkv.step(x, rows, updates.of(|u| u.qkv.as_ref()))?;
        if let Some(norms) = &self.qk_norms {
            qkv = norms.forward(&qkv, self.heads)?;
        }
        let LayerPool { keys, values, .. } = pool;
        let qkv = paged::rotate_and_write(&qkv, rope, keys, values, layout, self.heads)?;
        let sinks = self.sinks(x.dtype())?;
        let (sinks, window) = (sinks.as_ref(), self.window);
        let out = paged::attend(&qkv, keys, values, layout, sinks, self.heads, window)?;
        self.output
            .step(&out, rows, updates.of(|u| u.output.as_ref()))
    }
}

impl DenseMlp {
    fn step(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        rows: &Groups,
        updates: StepUpdates,
    ) -> Result<Tensor> {
        let gate_up = self
            .gate_up
            .step(x, rows, updates.of(|u| u.gate_up.as_ref()))?;
        let h = gated::forward(&gate_up, self.activation)?;
        let y = self.down.step(&h, rows, updates.of(|u| u.down.as_ref()))?;
        match residual {
            Some(residual) => Ok((residual + y)?),
            None => Ok(y),
        }
    }
}

impl Mixture {
    fn step(&self, x: &Tensor, residual: Option<&Tensor>, updates: StepUpdates) -> Result<Tensor> {
        let StepUpdates::Rows(updates, adapters) = updates else {
            return Ok(self.forward(x, residual, None)?.0);
        };
        let (logits, _) = self.logits(x)?;
        let ids = router::top_k(&logits, self.experts_per_token)?;
        let plan = RoutePlan::new(&ids, logits.dim(1)?)?;
        let weights = router::weights(&logits, &plan.ids)?;
        let updated = updates.gate_up.is_some() || updates.down.is_some();
        let index = adapters.filter(|_| updated);
        let index = index.map(|adapters| lora::rows::of_experts(adapters, &plan));
        let index = index.transpose()?;
        let rows = permute::gather(x, &plan)?;
        let site = updates.gate_up.as_ref().zip(index.as_ref());
        let gate_up = self.gate_up.step(&rows, &plan.groups, site)?;
        let h = swiglu::forward(&gate_up, self.activation)?;
        let site = updates.down.as_ref().zip(index.as_ref());
        let y = self.down.step(&h, &plan.groups, site)?;
        permute::combine(&y, &weights, &plan, residual)
    }
}
