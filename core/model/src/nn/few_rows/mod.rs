//! A step in which each sequence adds one token, for a few hundred sequences at most: what most of the time of answering goes into.
//!
//! Such a step reads every weight for little arithmetic. It takes kernels of its own, which read packed weights as they are
//! ([`rows`]) and write to memory that is there, so that a card can record the whole step once and repeat it by one call
//! (`device::Graph`). Steps of the same room, so many rows and pages, are one recording. [`Decoder::step`] is the same for any
//! tokens, and what this is tested against.

mod attention;
mod buffers;
mod inputs;
mod updates;
mod weights;

use super::decoder::Decoder;
use super::head::Head;
use super::paged_cache::PagedCache;
use super::updates::{LayerUpdates, RowUpdates};
use crate::ops::lora::{NO_UPDATE, RowFactors};
use crate::ops::paged::HostLayout;
use crate::ops::paged::PAGE;
use crate::ops::rope::RopeTable;
use crate::ops::{copy, rows};
use anyhow::{Context, Result};
use attention::{Splits, attend};
use buffers::Buffers;
use candle_core::{DType, Device, Tensor};
use inputs::{InputMemory, Inputs, Room};
use std::collections::HashMap;
use updates::StepUpdates;
use weights::{LayerWeights, ModelWeights};

pub use inputs::MOST_ROWS;

/// The tokens of a step, one of each sequence.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The tokens.
    pub ids: &'a [u32],
    /// Where they stand, for each kind of layers.
    pub layouts: &'a [HostLayout],
    /// For each the number of its adapter among the updates, or [`NO_UPDATE`].
    pub adapters: &'a [u32],
}

/// What answers need of a model, and memory for their steps.
pub struct FewRows<'m> {
    decoder: &'m Decoder,
    weights: ModelWeights,
    most: Room,
    memory: InputMemory,
    buffers: Buffers,
    splits: Splits,
    rope: RopeTable,
    /// Whether a row has the same bits whatever else is in its step.
    alone: bool,
    updates: Option<StepUpdates>,
    /// Steps by their room and whether rows have updates.
    steps: HashMap<(Room, bool), Recorded>,
}

/// A step of one room.
struct Recorded {
    inputs: Inputs,
    buffers: Buffers,
    routes: rows::Routes,
    runs: usize,
    #[cfg(feature = "cuda")]
    graph: Option<crate::device::Graph>,
}

impl<'m> FewRows<'m> {
    /// Memory for steps of up to `rows` sequences of up to `positions` positions. `None` if the model or the device has no such
    /// steps. With `alone` a row has the same bits whatever else is in its step.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        (decoder, head): (&'m Decoder, &'m Head),
        dtype: DType,
        (rows, positions): (usize, usize),
        alone: bool,
    ) -> Result<Option<Self>> {
        let most = Room::of(rows.min(MOST_ROWS), positions.div_ceil(PAGE));
        let (Some(most), false) = (most, decoder.is_sharded()) else {
            return Ok(None);
        };
        let Some(weights) = ModelWeights::find(decoder, head, dtype)? else {
            return Ok(None);
        };
        let kinds = decoder.cache_kinds();
        let windows: Vec<Option<usize>> = kinds.iter().map(|kind| kind.window).collect();
        let (heads, device) = (weights.layers[0].heads, &decoder.device);
        Ok(Some(Self {
            memory: InputMemory::new(most, kinds.len(), device)?,
            splits: Splits::new(most, heads, &windows, device)?,
            buffers: Buffers::new(&weights, most, (dtype, device))?,
            rope: decoder.angles.table(positions)?,
            most,
            decoder,
            weights,
            alone,
            updates: None,
            steps: HashMap::new(),
        }))
    }

    /// Runs the tokens of a step, puts their keys and values into the cache and returns the logits `[n, V]` f32 that follow them. The
    /// logits are overwritten by the next step. `None` if the step is too large.
    ///
    /// # Errors
    /// Parts of the step do not fit, or the device has failed.
    pub fn logits(
        &mut self,
        step: Rows,
        updates: Option<&RowUpdates>,
        cache: &PagedCache,
    ) -> Result<Option<Tensor>> {
        let pages = step.layouts.iter().map(HostLayout::width).max();
        let Some(room) = Room::of(step.ids.len(), pages.unwrap_or(0)) else {
            return Ok(None);
        };
        if !self.memory.has(room) {
            return Ok(None);
        }
        let updates = updates.filter(|_| step.adapters.iter().any(|&at| at != NO_UPDATE));
        if let Some(updates) = updates {
            self.take(updates)?;
        }
        let key = (room, updates.is_some());
        if !self.steps.contains_key(&key) {
            let recorded = self.prepare(room)?;
            self.steps.insert(key, recorded);
        }
        let recorded = self.steps.get_mut(&key).context("a step without room")?;
        recorded
            .inputs
            .upload(step.ids, step.layouts, step.adapters)?;
        let run = Run {
            weights: &self.weights,
            rope: &self.rope,
            splits: &self.splits,
            updates: self.updates.as_ref().filter(|_| updates.is_some()),
            alone: self.alone,
            cache,
        };
        let x = self.decoder.embedding.forward(&recorded.inputs.ids)?;
        copy::into(&recorded.buffers.x, &x)?;
        recorded.run(&run, &self.decoder.device)?;
        let logits = &recorded.buffers.logits;
        Ok(Some(logits.narrow(0, 0, step.ids.len())?))
    }

    /// Takes the updates of rows; steps that were recorded with others are forgotten.
    fn take(&mut self, updates: &RowUpdates) -> Result<()> {
        if self.updates.as_ref().is_some_and(|own| own.are(updates)) {
            return Ok(());
        }
        self.steps.retain(|(_, with_updates), _| !with_updates);
        self.updates = None;
        let device = &self.decoder.device;
        self.updates = Some(StepUpdates::new(updates, &self.weights, self.most, device)?);
        Ok(())
    }

    fn prepare(&self, room: Room) -> Result<Recorded> {
        let layer = &self.weights.layers[0];
        Ok(Recorded {
            inputs: self.memory.inputs(room)?,
            buffers: self.buffers.of(room)?,
            routes: rows::Routes::new(
                room.rows,
                layer.experts_per_token,
                layer.experts,
                &self.decoder.device,
            )?,
            runs: 0,
            #[cfg(feature = "cuda")]
            graph: None,
        })
    }
}

impl Recorded {
    /// Runs the step: the first time as it is, so that all kernels are loaded, then as a recording.
    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
    fn run(&mut self, run: &Run, device: &Device) -> Result<()> {
        self.runs += 1;
        #[cfg(feature = "cuda")]
        if let (Device::Cuda(cuda), true) = (device, self.runs > 1) {
            if self.graph.is_none() {
                self.graph = Some(crate::device::Graph::record(cuda, || {
                    run.layers(&self.inputs, &self.buffers, &self.routes)
                })?);
            }
            if let Some(graph) = &self.graph {
                return graph.launch();
            }
        }
        run.layers(&self.inputs, &self.buffers, &self.routes)
    }
}

/// What all steps read.
struct Run<'a> {
    weights: &'a ModelWeights,
    rope: &'a RopeTable,
    splits: &'a Splits,
    updates: Option<&'a StepUpdates>,
    alone: bool,
    cache: &'a PagedCache,
}

impl Run<'_> {
    /// From the embeddings in `buffers.x` to the logits.
    fn layers(&self, inputs: &Inputs, buffers: &Buffers, routes: &rows::Routes) -> Result<()> {
        let mut before = None;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            self.layer(index, layer, before, (inputs, buffers, routes))
                .with_context(|| format!("layer {index}"))?;
            before = Some(rows::Choices {
                rows: &buffers.down,
                weights: &routes.weights,
            });
        }
        let norm = self.weights.final_norm.get();
        let x = if before.is_some() {
            &buffers.middle
        } else {
            &buffers.x
        };
        rows::norm(&buffers.normed, None, x, None, before, norm)?;
        let head = self.weights.head.get();
        rows::product(&buffers.logits, &buffers.normed, head, self.alone)
    }

    /// A layer; `before` is what the experts of the one before it have made, which are not yet added to its `middle`.
    fn layer(
        &self,
        index: usize,
        layer: &LayerWeights,
        before: Option<rows::Choices>,
        (inputs, buffers, routes): (&Inputs, &Buffers, &rows::Routes),
    ) -> Result<()> {
        let Buffers {
            x,
            normed,
            qkv,
            attended,
            delta,
            middle,
            router,
            inner,
            down,
            ..
        } = buffers;
        let norm = layer.attention_norm.get();
        match before {
            None => rows::norm(normed, None, x, None, None, norm)?,
            Some(_) => rows::norm(normed, Some(x), middle, None, before, norm)?,
        }
        let updates = match self.updates {
            Some(updates) => Some((updates, updates.layer(index)?)),
            None => None,
        };
        let adapters = &inputs.adapters;
        rows::product(qkv, normed, layer.qkv.get(), self.alone)?;
        if let Some((updates, own)) = updates {
            updates.add(qkv, normed, adapters, own.qkv.as_ref())?;
        }
        let pool = &self.cache.layers()[index];
        attend(buffers, layer, inputs, pool, self.rope, self.splits)?;
        rows::product(delta, attended, layer.output.get(), self.alone)?;
        if let Some((updates, own)) = updates {
            updates.add(delta, attended, adapters, own.output.as_ref())?;
        }
        let norm = layer.mlp_norm.get();
        rows::norm(normed, Some(middle), x, Some(delta), None, norm)?;
        rows::product(router, normed, layer.router.get(), self.alone)?;
        rows::route(routes, router)?;
        if let Some((updates, _)) = updates {
            updates.route(adapters, &routes.ids)?;
        }
        let tokens = normed.dim(0)?;
        let term = |x: &Tensor, of: fn(&LayerUpdates) -> Option<&RowFactors>| match updates {
            Some((updates, own)) => updates.term(x, tokens, of(own)),
            None => Ok(None),
        };
        let low = term(normed, |own| own.gate_up.as_ref())?;
        let gate_up = layer.gate_up.get(low.as_ref());
        rows::gate_up(inner, normed, gate_up, routes, layer.activation)?;
        let low = term(inner, |own| own.down.as_ref())?;
        rows::down(down, inner, layer.down.get(low.as_ref()), routes)
    }
}
