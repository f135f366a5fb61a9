//! The answering engine: many requests at once on one model, each with its own sampling.
//!
//! Requests are added and cancelled at any time; [`Engine::step`] does a little of all of them and tells what came of it. The
//! engine borrows the model: while it exists the weights do not change.

mod request;
mod sequence;
mod text;

pub use request::{Event, FinishReason, Request, RequestId, Stop, TokenLogprobs, TokenMask};
pub use text::{AnswerText, first_stop};

use anyhow::{Result, bail, ensure};
use apus_data::chat::Tokenizer;
use apus_model::model::CausalLm;
use apus_model::nn::PagedCache;
use candle_core::{DType, Tensor};
use sequence::Sequence;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

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
    /// Whether the answer to a request has the same bits whatever else the engine answers.
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
    /// How often a request gave up its pages and was computed again.
    pub preemptions: u64,
}

/// Answers requests.
pub struct Engine<'m> {
    model: &'m CausalLm,
    tokenizer: Arc<Tokenizer>,
    options: EngineOptions,
    next: u64,
    waiting: VecDeque<Sequence>,
    running: Vec<(Sequence, PagedCache, usize)>,
    /// Events of requests that ended between steps.
    events: Vec<Event>,
    stats: Stats,
}

impl<'m> Engine<'m> {
    /// An engine without requests.
    ///
    /// # Errors
    /// Settings that make no sense.
    pub fn new(
        model: &'m CausalLm,
        tokenizer: Arc<Tokenizer>,
        options: EngineOptions,
    ) -> Result<Self> {
        ensure!(
            options.max_batch_size > 0,
            "max_batch_size is 0, expected 1 or more"
        );
        ensure!(
            options.prefill_chunk > 0,
            "prefill_chunk is 0, expected 1 or more"
        );
        Ok(Self {
            model,
            tokenizer,
            options,
            next: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
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

    /// The most tokens of a prompt and its answer together.
    pub fn max_length(&self) -> usize {
        let positions = self.model.config().architecture.max_position_embeddings;
        self.options.max_length.unwrap_or(positions).min(positions)
    }

    /// Adds a request; it is answered in later steps.
    ///
    /// # Errors
    /// Values out of their ranges, an unknown adapter, a prompt that is empty, or longer than can be answered.
    pub fn add(&mut self, request: Request) -> Result<RequestId> {
        request.sampling.check()?;
        request.stop.check()?;
        if let Some(name) = &request.adapter {
            bail!("adapter `{name}` is not loaded");
        }
        let (length, most) = (request.prompt.len(), self.max_length());
        ensure!(length > 0, "the prompt is empty");
        ensure!(
            length <= most,
            "the prompt has {length} tokens, expected at most {most}"
        );
        let id = RequestId(self.next);
        self.next += 1;
        self.stats.prompt_tokens += length as u64;
        // The last token of an answer takes no position.
        let most = request.sampling.max_new_tokens.min(most + 1 - length);
        self.waiting.push_back(Sequence::new(id, request, most));
        Ok(id)
    }

    /// Ends a request. The next step tells of it as cancelled; nothing happens if it has ended.
    pub fn cancel(&mut self, id: RequestId) {
        let mut ended = None;
        if let Some(at) = self.waiting.iter().position(|sequence| sequence.id == id) {
            ended = self.waiting.remove(at);
        } else if let Some(at) = self.running.iter().position(|(s, ..)| s.id == id) {
            ended = Some(self.running.remove(at).0);
        }
        if let Some(mut sequence) = ended {
            self.events.push(sequence.finished(FinishReason::Cancelled));
        }
    }

    /// Takes a request out and tells nothing of it any more, as if it had not been added.
    pub fn forget(&mut self, id: RequestId) {
        self.cancel(id);
        self.events.retain(|event| event.id() != id);
    }

    /// Whether there is nothing to do and nothing to tell.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.events.is_empty()
    }

    /// Goes on with the requests, and tells what came of it. A request that fails ends with [`Event::Failed`]; others go on.
    ///
    /// # Errors
    /// The engine itself cannot go on.
    pub fn step(&mut self) -> Result<Vec<Event>> {
        let mut events = std::mem::take(&mut self.events);
        while self.running.len() < self.options.max_batch_size
            && let Some(sequence) = self.waiting.pop_front()
        {
            let positions = sequence.tokens.len() + sequence.most;
            let (decoder, dtype) = (self.model.decoder(), self.model.dtype());
            let cache = PagedCache::alone(decoder, positions, dtype)?;
            self.running.push((sequence, cache, 0));
        }
        let mut going = Vec::new();
        for (mut sequence, cache, mut computed) in std::mem::take(&mut self.running) {
            match self.next(&mut sequence, &cache, &mut computed) {
                Ok((event, reason)) => {
                    self.stats.generated_tokens += 1;
                    events.push(event);
                    match reason {
                        Some(reason) => events.push(sequence.finished(reason)),
                        None => going.push((sequence, cache, computed)),
                    }
                }
                Err(error) => events.push(Event::Failed {
                    id: sequence.id,
                    error,
                }),
            }
        }
        self.running = going;
        Ok(events)
    }

    fn next(
        &self,
        sequence: &mut Sequence,
        cache: &PagedCache,
        computed: &mut usize,
    ) -> Result<(Event, Option<FinishReason>)> {
        let new = &sequence.tokens[*computed..];
        let hidden = self.model.decoder().step_alone(new, *computed, cache)?;
        *computed = sequence.tokens.len();
        let logits = self.logits(&hidden)?;
        sequence.next(&logits, &self.tokenizer)
    }

    /// The logits `[V]` (f32) for the last of the hidden states `[n, H]`.
    fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        let last = hidden.narrow(0, hidden.dim(0)? - 1, 1)?;
        let (normed, _) = self.model.head().forward(&last)?;
        let logits = self.model.head().logits(&normed)?.get(0)?;
        Ok(logits.to_dtype(DType::F32)?.to_vec1()?)
    }

    /// Loads an adapter, which requests name.
    ///
    /// # Errors
    /// It does not fit the model, or the name is taken.
    pub fn load_adapter(&mut self, name: &str, _dir: &Path) -> Result<()> {
        bail!("adapter `{name}`: adapters by name are not built yet")
    }

    /// Unloads an adapter.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn unload_adapter(&mut self, name: &str) -> Result<()> {
        bail!("adapter `{name}` is not loaded")
    }

    /// The names of the adapters that requests can name.
    pub fn adapters(&self) -> Vec<String> {
        Vec::new()
    }

    /// Counts of now, and since the engine was made.
    pub fn stats(&self) -> Stats {
        Stats {
            waiting: self.waiting.len(),
            running: self.running.len(),
            ..self.stats
        }
    }
}
