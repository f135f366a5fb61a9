//! The low-rank updates of the rows of a step, each row those of its adapter.

use super::inputs::Room;
use super::weights::ModelWeights;
use crate::nn::updates::{LayerUpdates, RowUpdates};
use crate::ops::lora::RowFactors;
use crate::ops::lora::rows::{add_rows_into, of_pairs, term_of_rows};
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, TensorId};

/// The updates of the adapters that are loaded, and memory for what rows make of them.
#[derive(Debug)]
pub struct StepUpdates {
    layers: Vec<LayerUpdates>,
    /// Which updates these are.
    identity: Option<TensorId>,
    /// What is between the factors, as many numbers as the largest step needs.
    low: Tensor,
    /// The updates of pairs of a token and a choice, f32.
    term: Tensor,
    /// The update of each pair, u32.
    index: Tensor,
    /// The numbers from 0 on, u32.
    order: Tensor,
    choices: usize,
    experts: usize,
}

/// What tells updates from others: they are stacked anew whenever they change.
fn identity(updates: &RowUpdates) -> Option<TensorId> {
    let layers = updates.layers.iter();
    let mut sites = layers.flat_map(LayerUpdates::sites);
    sites.next().map(|factors| factors.a.id())
}

impl StepUpdates {
    /// Memory for steps up to a room.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(
        updates: &RowUpdates,
        weights: &ModelWeights,
        most: Room,
        device: &Device,
    ) -> Result<Self> {
        let layer = &weights.layers[0];
        let pairs = most.rows * layer.experts_per_token;
        let ranks = updates.layers.iter().flat_map(LayerUpdates::sites);
        let rank = ranks.map(|factors| factors.a.dims()[1]).max().unwrap_or(0);
        let width = layer.gate_up.outputs.max(layer.down.outputs);
        let order: Vec<u32> = (0..pairs as u32).collect();
        Ok(Self {
            layers: updates.layers.clone(),
            identity: identity(updates),
            low: Tensor::zeros(pairs * rank, DType::F32, device)?,
            term: Tensor::zeros(pairs * width, DType::F32, device)?,
            index: Tensor::zeros(pairs, DType::U32, device)?,
            order: Tensor::new(order.as_slice(), device)?,
            choices: layer.experts_per_token,
            experts: layer.experts,
        })
    }

    /// Whether these are the updates that it was made for.
    pub fn are(&self, updates: &RowUpdates) -> bool {
        self.identity == identity(updates)
    }

    /// Those of a layer.
    ///
    /// # Errors
    /// There are updates of fewer layers.
    pub fn layer(&self, index: usize) -> Result<&LayerUpdates> {
        self.layers.get(index).context("it has no updates")
    }

    fn low(&self, rows: usize, factors: &RowFactors) -> Result<Tensor> {
        let rank = factors.a.dim(1)?;
        Ok(self.low.narrow(0, 0, rows * rank)?.reshape((rows, rank))?)
    }

    /// Adds the updates of rows of `x` to `y`.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn add(
        &self,
        y: &Tensor,
        x: &Tensor,
        adapters: &Tensor,
        factors: Option<&RowFactors>,
    ) -> Result<()> {
        match factors {
            Some(factors) => add_rows_into(y, &self.low(y.dim(0)?, factors)?, x, adapters, factors),
            None => Ok(()),
        }
    }

    /// Finds the update of each pair by the experts `ids` `[T, K]` that tokens chose.
    ///
    /// # Errors
    /// The device has failed.
    pub fn route(&self, adapters: &Tensor, ids: &Tensor) -> Result<()> {
        let index = self.index.narrow(0, 0, ids.elem_count())?;
        of_pairs(&index, adapters, ids, &self.order, self.experts)
    }

    /// What is added to the outputs of experts for each pair, by the rows of `x`, one for each pair or one for each
    /// token.
    ///
    /// # Errors
    /// Shapes do not fit.
    pub fn term(
        &self,
        x: &Tensor,
        tokens: usize,
        factors: Option<&RowFactors>,
    ) -> Result<Option<Tensor>> {
        let Some(factors) = factors else {
            return Ok(None);
        };
        let (pairs, outputs) = (tokens * self.choices, factors.b.dim(1)?);
        let y = self.term.narrow(0, 0, pairs * outputs)?;
        let y = y.reshape((pairs, outputs))?;
        let index = self.index.narrow(0, 0, pairs)?;
        term_of_rows(&y, &self.low(pairs, factors)?, x, &index, factors)?;
        Ok(Some(y))
    }
}
