//! A step through the model: the tokens of all parts in one pass, and the logits that follow the last token of each sequence.

use super::adapters::Adapters;
use super::cache::Cache;
use super::schedule::Part;
use super::sequence::Sequence;
use anyhow::Result;
use apus_model::model::CausalLm;
use apus_model::nn::Step;
use apus_model::nn::few_rows::{FewRows, Rows};
use apus_model::ops::paged::{HostLayout, PAGE, PagedLayout};
use candle_core::{DType, Tensor};

/// Whether parts are one token of each sequence, all of which are sampled from.
pub fn is_decoding(parts: &[Part], running: &[Sequence]) -> bool {
    parts.iter().all(|part| {
        part.tokens.len() == 1 && part.tokens.end == running[part.sequence].tokens.len()
    })
}

/// Computes parts in one pass. Returns the logits `[n, V]` f32 that follow the parts which end their sequences, in their order, if
/// there are any.
pub fn forward(
    model: &CausalLm,
    (cache, adapters): (&Cache, &Adapters),
    few_rows: Option<&mut FewRows>,
    running: &[Sequence],
    parts: &[Part],
) -> Result<Option<Tensor>> {
    let device = model.device();
    let (mut ids, mut of_adapters, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        let sequence = &running[part.sequence];
        ids.extend_from_slice(&sequence.tokens[part.tokens.clone()]);
        of_adapters.resize(ids.len(), adapters.number(sequence.adapter));
        if part.tokens.end == sequence.tokens.len() {
            last.push(ids.len() as u32 - 1);
        }
    }
    let longest = parts.iter().map(|part| part.tokens.end).max().unwrap_or(0);
    let width = longest.div_ceil(PAGE);
    let layouts = (0..cache.pools().kinds().len()).map(|kind| {
        let mut layout = HostLayout::new();
        for part in parts {
            let held = &running[part.sequence].held;
            cache.lay_out(kind, held, part.tokens.clone(), (&mut layout, width));
        }
        layout
    });
    let layouts: Vec<HostLayout> = layouts.collect();
    if let Some(few_rows) = few_rows.filter(|_| is_decoding(parts, running)) {
        let rows = Rows {
            ids: &ids,
            layouts: &layouts,
            adapters: &of_adapters,
        };
        if let Some(logits) = few_rows.logits(rows, adapters.updates(), cache.pools())? {
            return Ok(Some(logits));
        }
    }
    let layouts = layouts
        .into_iter()
        .map(|layout| PagedLayout::new(layout, device));
    let layouts = layouts.collect::<Result<Vec<_>>>()?;
    let step = Step {
        ids: &ids,
        layouts: &layouts,
        adapters: &of_adapters,
        updates: adapters.updates(),
    };
    let hidden = model.decoder().step(&step, cache.pools())?;
    if last.is_empty() {
        return Ok(None);
    }
    let rows = match last.len() == ids.len() {
        true => hidden,
        false => hidden.index_select(&Tensor::new(last.as_slice(), device)?, 0)?,
    };
    let (normed, _) = model.head().forward(&rows)?;
    Ok(Some(model.head().logits(&normed)?.to_dtype(DType::F32)?))
}
