//! Which low-rank updates the rows of a step have: the layers' own, or each row that of an adapter by its number.

use crate::ops::Groups;
use crate::ops::lora::{self, RowFactors};
use anyhow::Result;
use candle_core::Tensor;

/// The updates of a layer's matrices by several adapters, each stacked. A matrix that no adapter updates has none.
#[derive(Debug, Default, Clone)]
pub struct LayerUpdates {
    /// Of the projections to queries, keys and values, side by side.
    pub qkv: Option<RowFactors>,
    /// Of the projection of attention's output.
    pub output: Option<RowFactors>,
    /// Of the projections to gates and values: of a dense MLP side by side, or of the first matrix of each expert.
    pub gate_up: Option<RowFactors>,
    /// Of the projection back, or of the second matrix of each expert.
    pub down: Option<RowFactors>,
}

impl LayerUpdates {
    /// The matrices that have updates.
    pub fn sites(&self) -> impl Iterator<Item = &RowFactors> {
        let sites = [&self.qkv, &self.output, &self.gate_up, &self.down];
        sites.into_iter().flatten()
    }
}

/// The updates of all layers by several adapters, which rows name by their numbers.
#[derive(Debug, Default)]
pub struct RowUpdates {
    /// Those of each layer.
    pub layers: Vec<LayerUpdates>,
}

/// The updates of the rows of a step in one layer.
#[derive(Debug, Clone, Copy)]
pub enum StepUpdates<'a> {
    /// Those that the layer has, the same for all rows.
    Own,
    /// In their place, for each row the one of the adapter of this number (`[T]` u32, [`lora::NO_UPDATE`] for none); without
    /// numbers no row has any.
    Rows(&'a LayerUpdates, Option<&'a Tensor>),
}

/// The update of a matrix for each of its rows, in place of the layer's own.
pub type SiteUpdates<'a> = Option<(&'a RowFactors, &'a Tensor)>;

impl<'a> StepUpdates<'a> {
    /// Those of one matrix; `None` if the layer has its own.
    pub fn of(
        self,
        site: impl FnOnce(&'a LayerUpdates) -> Option<&'a RowFactors>,
    ) -> Option<SiteUpdates<'a>> {
        match self {
            Self::Own => None,
            Self::Rows(updates, rows) => Some(site(updates).zip(rows)),
        }
    }
}

/// Adds what a matrix's updates make of rows `x` to its product `y`.
pub fn add(y: Tensor, x: &Tensor, updates: SiteUpdates) -> Result<Tensor> {
    match updates {
        Some((factors, rows)) => lora::add_rows(y, x, rows, factors),
        None => Ok(y),
    }
}

/// What the rows of a step have in common in all layers.
#[derive(Debug)]
pub struct StepRows {
    /// All rows as one group.
    pub all: Groups,
    /// The adapter of each row, if any has one.
    pub adapters: Option<Tensor>,
}
