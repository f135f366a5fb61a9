//! The settings of an engine and what it counts; how much of the device's memory its cache takes.

use super::cache::pages_for;
use anyhow::{Result, ensure};
use apus_model::device::usage;
use apus_model::model::CausalLm;
use apus_model::nn::CacheKind;
use apus_model::nn::few_rows::FewRows;
use apus_model::ops::paged::PAGE;

/// The settings of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// The most requests that are answered at the same time; the others wait.
    pub max_batch_size: usize,
    /// The positions for which there is room in the cache of keys and values; what the device's memory allows without a number.
    pub cache_tokens: Option<usize>,
    /// The most tokens of a prompt and its answer together; the model's positions without a number.
    pub max_length: Option<usize>,
    /// The most tokens of prompts that a step takes, together.
    pub prefill_chunk: usize,
    /// Whether requests share what their prompts have in common.
    pub prefix_cache: bool,
    /// Whether the answer to a request has the same bits whatever else the engine answers: prompts are computed alone, in chunks
    /// that are cut at multiples of `prefill_chunk` (rounded down to whole pages), and answers row by row. Without it sums may be
    /// taken in another order, so that probabilities differ in their last digits, and an answer where two tokens are almost equally
    /// probable.
    pub deterministic: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_batch_size: 16,
            cache_tokens: None,
            max_length: None,
            prefill_chunk: 2048,
            prefix_cache: true,
            deterministic: false,
        }
    }
}

/// Counts of an engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that wait.
    pub waiting: usize,
    /// Requests that are being answered.
    pub running: usize,
    /// Pages of the cache that requests hold.
    pub pages_used: usize,
    /// Pages that nobody holds and that a prompt may still share.
    pub pages_cached: usize,
    /// All pages.
    pub pages: usize,
    /// Tokens of prompts so far, those included that were shared.
    pub prompt_tokens: u64,
    /// Tokens of answers so far.
    pub generated_tokens: u64,
    /// Tokens of prompts that were shared and not computed again.
    pub prefix_hits: u64,
    /// How often a request gave up its pages, to be computed again.
    pub preemptions: u64,
}

/// The most positions of a sequence for which a cache on the CPU has room for a full batch, unless a number is given.
const CPU_POSITIONS: usize = 4096;

/// Memory of a card that is left for everything else, unless that is more than half of what is free.
const RESERVE: u64 = 2 << 30;

impl EngineOptions {
    pub(super) fn check(&self) -> Result<()> {
        for (name, value) in [
            ("max_batch_size", Some(self.max_batch_size)),
            ("cache_tokens", self.cache_tokens),
            ("max_length", self.max_length),
            ("prefill_chunk", Some(self.prefill_chunk)),
        ] {
            ensure!(value != Some(0), "{name} is 0, expected 1 or more");
        }
        Ok(())
    }

    /// The most tokens of prompts in a step, and the places at which prompts are cut under `deterministic`.
    pub(super) fn chunk(&self) -> usize {
        match self.deterministic {
            true => (self.prefill_chunk / PAGE).max(1) * PAGE,
            false => self.prefill_chunk,
        }
    }

    /// The steps for few rows that a card has kernels for.
    pub(super) fn few_rows<'m>(&self, model: &'m CausalLm) -> Result<Option<FewRows<'m>>> {
        if model.device().is_cpu() {
            return Ok(None);
        }
        let positions = model.config().architecture.max_position_embeddings;
        let most = self.max_length.unwrap_or(positions).min(positions);
        model.few_rows((self.max_batch_size, most), self.deterministic)
    }

    /// The most tokens of a sequence, and how many pages of each kind the cache has.
    pub(super) fn sizes(&self, model: &CausalLm, kinds: &[CacheKind]) -> (usize, Vec<usize>) {
        let positions = model.config().architecture.max_position_embeddings;
        let most = self.max_length.unwrap_or(positions).min(positions);
        let pages = |tokens| pages_for(kinds, tokens, (self.max_batch_size, self.chunk()));
        let tokens = match self.cache_tokens {
            Some(tokens) => tokens,
            None => {
                let each = match model.device().is_cpu() {
                    true => most.min(CPU_POSITIONS),
                    false => most,
                };
                // A sequence is let in where a page more than it needs is free beside those of the others.
                let wanted = (each + 2 * PAGE).saturating_mul(self.max_batch_size);
                let wanted = wanted.max(most + 2 * PAGE);
                let element = model.dtype().size_in_bytes() as u64;
                let bytes = |tokens| {
                    let pages = pages(tokens);
                    let kinds = kinds.iter().zip(pages);
                    let elements =
                        kinds.map(|(kind, pages)| kind.page_elements.saturating_mul(pages));
                    let sum = elements.fold(0, usize::saturating_add);
                    (sum as u64).saturating_mul(element)
                };
                greatest(wanted, room(model), bytes)
            }
        };
        let pages = pages(tokens);
        (most.min(tokens.div_ceil(PAGE) * PAGE), pages)
    }
}

/// The bytes that a cache may take: a quarter of the memory that is free on the host, most of it on a card.
fn room(model: &CausalLm) -> u64 {
    let Some(free) = usage::free(model.device()) else {
        return u64::MAX;
    };
    match model.device().is_cpu() {
        true => free / 4,
        false => (free / 100 * 85).min(free - RESERVE.min(free / 2)),
    }
}

/// The greatest number of tokens up to `wanted` whose bytes are within `room`, or those of one page.
fn greatest(wanted: usize, room: u64, bytes: impl Fn(usize) -> u64) -> usize {
    if bytes(wanted) <= room {
        return wanted;
    }
    let (mut fits, mut too_many) = (PAGE, wanted);
    while fits + PAGE < too_many {
        let middle = fits + (too_many - fits) / 2;
        match bytes(middle) <= room {
            true => fits = middle,
            false => too_many = middle,
        }
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_takes_what_it_may() {
        let bytes = |tokens: usize| 10u64.saturating_mul(tokens as u64);
        for (wanted, room, least, most) in [
            (1000, 1 << 40, 1000, 1000),
            (1000, 5000, 500 - PAGE, 500),
            (1000, 0, PAGE, PAGE),
            (usize::MAX, 5000, 500 - PAGE, 500),
        ] {
            let found = greatest(wanted, room, bytes);
            assert!((least..=most).contains(&found), "{wanted} {room}: {found}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let zero = |change: fn(&mut EngineOptions)| {
            let mut options = EngineOptions::default();
            change(&mut options);
            options.check().unwrap_err().to_string()
        };
        assert!(zero(|o| o.max_batch_size = 0).starts_with("max_batch_size is 0"));
        assert!(zero(|o| o.cache_tokens = Some(0)).starts_with("cache_tokens is 0"));
        assert!(zero(|o| o.max_length = Some(0)).starts_with("max_length is 0"));
        assert!(zero(|o| o.prefill_chunk = 0).starts_with("prefill_chunk is 0"));
    }
}
