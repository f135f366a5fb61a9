//! The keys and values of all layers in pages. Layers that see equally far back are of one kind: a sequence has one table of pages
//! for all layers of a kind.

use super::attention::Attention;
use super::decoder::Decoder;
use crate::ops::paged::PAGE;
use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};

/// Layers that see equally far back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheKind {
    /// The number of keys that a query sees, if there is a sliding window.
    pub window: Option<usize>,
    /// The layers.
    pub layers: Vec<usize>,
    /// The elements of a page: keys and values of all these layers.
    pub page_elements: usize,
}

/// The pools of all layers.
#[derive(Debug)]
pub struct PagedCache {
    kinds: Vec<CacheKind>,
    layers: Vec<LayerPool>,
}

/// The pools of a layer.
#[derive(Debug)]
pub struct LayerPool {
    /// Keys, rotated, `[pages * PAGE, KV D]`.
    pub keys: Tensor,
    /// Values, `[pages * PAGE, KV D]`.
    pub values: Tensor,
    /// The kind of the layer.
    pub kind: usize,
}

impl PagedCache {
    /// Pools of so many pages for each of the decoder's [kinds](Decoder::cache_kinds).
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(decoder: &Decoder, pages: &[usize], dtype: DType) -> Result<Self> {
        let kinds = decoder.cache_kinds();
        ensure!(
            pages.len() == kinds.len(),
            "a cache of {} kinds of pages for layers of {} kinds",
            pages.len(),
            kinds.len()
        );
        let attentions = decoder.layers.iter().map(|layer| &layer.attention);
        let layers = attentions.enumerate().map(|(index, attention)| {
            let kind = kinds.iter().position(|kind| kind.layers.contains(&index));
            let kind = kind.unwrap_or(0);
            LayerPool::new(attention, (kind, pages[kind]), dtype, &decoder.device)
        });
        let layers = layers.collect::<Result<_>>()?;
        Ok(Self { kinds, layers })
    }

    /// Pools for one sequence of so many positions.
    ///
    /// # Errors
    /// Out of memory.
    pub fn alone(decoder: &Decoder, positions: usize, dtype: DType) -> Result<Self> {
        let pages = positions.div_ceil(PAGE);
        Self::new(decoder, &vec![pages; decoder.cache_kinds().len()], dtype)
    }

    /// The kinds of layers.
    pub fn kinds(&self) -> &[CacheKind] {
        &self.kinds
    }

    /// The pools of each layer.
    pub fn layers(&self) -> &[LayerPool] {
        &self.layers
    }
}

impl LayerPool {
    fn new(
        attention: &Attention,
        (kind, pages): (usize, usize),
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let shape = (pages * PAGE, attention.heads.kv * attention.heads.dim);
        Ok(Self {
            keys: Tensor::zeros(shape, dtype, device)?,
            values: Tensor::zeros(shape, dtype, device)?,
            kind,
        })
    }
}

impl Decoder {
    /// The kinds of its layers, in the order of their first ones.
    pub fn cache_kinds(&self) -> Vec<CacheKind> {
        let mut kinds: Vec<CacheKind> = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let (window, heads) = (layer.attention.window, layer.attention.heads);
            let elements = 2 * PAGE * heads.kv * heads.dim;
            match kinds.iter_mut().find(|kind| kind.window == window) {
                Some(kind) => {
                    kind.layers.push(index);
                    kind.page_elements += elements;
                }
                None => kinds.push(CacheKind {
                    window,
                    layers: vec![index],
                    page_elements: elements,
                }),
            }
        }
        kinds
    }
}
