//! The answering engine: many requests at once on one model, each with its own sampling and adapter.
//!
//! Requests are added and cancelled at any time; [`Engine::step`] does a little of all of them and tells what came of it. `schedule`
//! says which tokens a step computes, `cache` (`pages`) which pages their keys and values are in, `forward` runs them through the
//! model in one pass, `sequence` chooses the next token of each. The engine borrows the model: it runs on the weights that are
//! loaded, adapters unmerged.

mod adapters;
mod cache;
mod forward;
mod on_card;
mod pages;
mod pass;
mod request;
mod schedule;
mod sequence;
mod settings;
mod text;

pub use request::{Event, FinishReason, Request, RequestId, Stop, TokenLogprobs, TokenMask};
pub use settings::{EngineOptions, Stats};
pub use text::{AnswerText, first_stop};

use adapters::Adapters;
use anyhow::{Context, Result, anyhow, bail, ensure};
use apus_data::chat::Tokenizer;
use apus_model::model::CausalLm;
use apus_model::nn::PagedCache;
use apus_model::nn::few_rows::FewRows;
use cache::Cache;
use pages::Pages;
use schedule::{Queue, Rules};
use sequence::Sequence;
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

/// Answers requests.
pub struct Engine<'m> {
    model: &'m CausalLm,
    tokenizer: Arc<Tokenizer>,
    options: EngineOptions,
    rules: Rules,
    max_length: usize,
    next: u64,
    queue: Queue,
    cache: Cache,
    adapters: Adapters,
    /// Steps in which each sequence adds one token, where the device has kernels for them.
    few_rows: Option<FewRows<'m>>,
    /// Events of requests that ended between steps.
    events: Vec<Event>,
    stats: Stats,
}

impl<'m> Engine<'m> {
    /// An engine without requests; its cache of keys and values is allocated once.
    ///
    /// # Errors
    /// Settings that make no sense, or out of memory.
    pub fn new(
        model: &'m CausalLm,
        tokenizer: Arc<Tokenizer>,
        options: EngineOptions,
    ) -> Result<Self> {
        options.check()?;
        let adapters = Adapters::new(model)?;
        let kinds = model.decoder().cache_kinds();
        let few_rows = options.few_rows(model)?;
        let (max_length, pages) = options.sizes(model, &kinds);
        let pools = PagedCache::new(model.decoder(), &pages, model.dtype()).with_context(|| {
            format!(
                "a cache of keys and values of {} pages; cache_tokens, max_length and max_batch_size make it smaller",
                pages.iter().sum::<usize>()
            )
        })?;
        Ok(Self {
            model,
            tokenizer,
            rules: Rules {
                batch: options.max_batch_size,
                chunk: options.chunk(),
                share: options.prefix_cache,
                fixed_chunks: options.deterministic,
            },
            options,
            max_length,
            next: 0,
            queue: Queue {
                waiting: VecDeque::new(),
                running: Vec::new(),
            },
            cache: Cache::new(pools, &pages),
            adapters,
            few_rows,
            events: Vec::new(),
            stats: Stats::default(),
        })
    }

    /// The model.
    pub fn model(&self) -> &'m CausalLm {
        self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The settings.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// The most tokens of a prompt and its answer together: `max_length`, the model's positions, or what the cache has room for,
    /// whichever is the least.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// Adds a request; it is answered in later steps. An answer ends at the latest where prompt and answer have
    /// [`max_length`](Self::max_length) tokens.
    ///
    /// # Errors
    /// Values out of their ranges, an unknown adapter, a prompt that is empty, or longer than can be answered.
    pub fn add(&mut self, request: Request) -> Result<RequestId> {
        request.sampling.check()?;
        request.stop.check()?;
        let (length, most) = (request.prompt.len(), self.max_length);
        ensure!(length > 0, "the prompt is empty");
        if length > most {
            bail!("{}", self.too_long(length));
        }
        let vocabulary = self.model.head().vocab_size();
        let biased = request.sampling.logit_bias.iter().map(|(token, _)| token);
        for (name, tokens) in [
            ("the prompt", request.prompt.iter().collect::<Vec<_>>()),
            ("logit_bias", biased.collect()),
        ] {
            if let Some(token) = tokens.iter().find(|&&&token| token as usize >= vocabulary) {
                bail!("{name} has token {token}, which is beyond the vocabulary of {vocabulary}");
            }
        }
        let adapter = self.adapters.enter(request.adapter.as_deref())?;
        let id = RequestId(self.next);
        self.next += 1;
        self.stats.prompt_tokens += length as u64;
        // The last token of an answer takes no position.
        let most = request.sampling.max_new_tokens.min(most + 1 - length);
        let sequence = Sequence::new(id, request, adapter, most);
        self.queue.waiting.push_back(sequence);
        Ok(id)
    }

    fn too_long(&self, length: usize) -> String {
        let positions = self.model.config().architecture.max_position_embeddings;
        let limit = match self.options.max_length {
            _ if self.max_length < self.options.max_length.unwrap_or(positions).min(positions) => {
                "the cache of keys and values has room for"
            }
            Some(most) if most <= positions => "max_length is",
            _ => "the number of positions of the model is",
        };
        format!(
            "the prompt has {length} tokens, {limit} {}",
            self.max_length
        )
    }

    /// Ends a request. The next step tells of it as cancelled; nothing happens if it has ended.
    pub fn cancel(&mut self, id: RequestId) {
        if let Some(sequence) = self.take_out(id) {
            self.events.push(sequence.finished(FinishReason::Cancelled));
        }
    }

    /// Takes a request out and tells nothing of it any more, as if it had not been added.
    pub fn forget(&mut self, id: RequestId) {
        drop(self.take_out(id));
        self.events.retain(|event| event.id() != id);
    }

    fn take_out(&mut self, id: RequestId) -> Option<Sequence> {
        let Queue { waiting, running } = &mut self.queue;
        let mut sequence = match waiting.iter().position(|sequence| sequence.id == id) {
            Some(at) => waiting.remove(at)?,
            None => {
                let at = running.iter().position(|sequence| sequence.id == id)?;
                running.remove(at)
            }
        };
        self.leave(&mut sequence);
        Some(sequence)
    }

    /// Gives back what a sequence holds.
    fn leave(&mut self, sequence: &mut Sequence) {
        self.cache.release(&mut sequence.held);
        if let Err(error) = self.adapters.exit(self.model, sequence.adapter) {
            self.events.push(Event::Failed {
                id: sequence.id,
                error,
            });
        }
    }

    /// Whether there is nothing to do and nothing to tell.
    pub fn is_idle(&self) -> bool {
        let Queue { waiting, running } = &self.queue;
        waiting.is_empty() && running.is_empty() && self.events.is_empty()
    }

    /// Goes on with the requests, and tells what came of it. A request that fails ends with [`Event::Failed`]; others go on.
    ///
    /// # Errors
    /// The engine itself cannot go on.
    pub fn step(&mut self) -> Result<Vec<Event>> {
        let mut events = std::mem::take(&mut self.events);
        let (parts, planned) = self.queue.plan(&mut self.cache, &self.rules);
        self.stats.preemptions += planned.preempted;
        self.stats.prefix_hits += planned.shared;
        if parts.is_empty()
            && self.queue.running.is_empty()
            && let Some(mut sequence) = self.queue.waiting.pop_front()
        {
            let error = anyhow!(
                "the cache of {} pages has no room for the {} tokens of the request",
                self.stats().pages,
                sequence.tokens.len()
            );
            self.leave(&mut sequence);
            events.push(Event::Failed {
                id: sequence.id,
                error,
            });
        }
        let mut ended = BTreeMap::new();
        for pass in self.passes(parts) {
            self.pass(&pass, &mut events, &mut ended);
        }
        let mut running = Vec::with_capacity(self.queue.running.len());
        for (at, mut sequence) in std::mem::take(&mut self.queue.running)
            .into_iter()
            .enumerate()
        {
            match ended.remove(&at) {
                Some(event) => {
                    self.leave(&mut sequence);
                    events.push(event);
                }
                None => running.push(sequence),
            }
        }
        self.queue.running = running;
        Ok(events)
    }

    /// Loads an adapter, which requests can name from now on: LoRA or rsLoRA of linear layers and experts. Requests with different
    /// adapters share a batch.
    ///
    /// # Errors
    /// It does not fit the model or is of another kind, or the name is taken.
    pub fn load_adapter(&mut self, name: &str, dir: &Path) -> Result<()> {
        self.adapters.load(self.model, name, dir)
    }

    /// Gives the model without its own low-rank updates a name, which requests can name as an adapter from now on.
    ///
    /// # Errors
    /// The model cannot answer without what was trained.
    pub fn name_base(&mut self, name: &str) -> Result<()> {
        self.adapters.name_base(self.model, name)
    }

    /// Unloads an adapter. New requests cannot name it; those that are there finish first, and then its memory is given back.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn unload_adapter(&mut self, name: &str) -> Result<()> {
        self.adapters.unload(self.model, name)
    }

    /// The names of the adapters that requests can name.
    pub fn adapters(&self) -> Vec<String> {
        self.adapters.names()
    }

    /// After the model's weights have changed: forgets what prompts could share, and reads the model's own updates again.
    ///
    /// # Errors
    /// There are requests, whose keys and values are of the old weights.
    pub fn clear(&mut self) -> Result<()> {
        let Queue { waiting, running } = &self.queue;
        ensure!(
            waiting.is_empty() && running.is_empty(),
            "the engine is cleared while it has {} requests",
            waiting.len() + running.len()
        );
        self.cache.clear();
        self.adapters.refresh(self.model)
    }

    /// Counts of now, and since the engine was made.
    pub fn stats(&self) -> Stats {
        let sum = |count: fn(&Pages) -> usize| self.cache.pages().map(count).sum();
        Stats {
            waiting: self.queue.waiting.len(),
            running: self.queue.running.len(),
            pages: sum(Pages::count),
            pages_cached: sum(Pages::idle),
            pages_used: sum(|pages| pages.count() - pages.available()),
            ..self.stats
        }
    }
}
