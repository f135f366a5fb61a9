//! One load: prompts of random tokens that are asked at once and answered by the engine, timed token by token.

use crate::bench::lengths;
use crate::generate::{Engine, EngineOptions, Event, Request, RequestId, Sampling};
use anyhow::{Result, bail, ensure};
use apus_components::config::GenerationLoad;
use apus_data::chat::Tokenizer;
use apus_model::model::CausalLm;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// What one load took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timed {
    /// Seconds from the asking to the first token: of the first and of the last answer that got one.
    pub first_token: [f64; 2],
    /// Seconds in which all answers were written on: from the last first token to the first end.
    pub together: f64,
    /// Tokens of answers in that time.
    pub together_tokens: usize,
    /// Seconds from the asking to the last token.
    pub whole: f64,
}

impl Timed {
    /// Tokens of prompts a second until all answers have begun.
    pub fn prefill_rate(&self, load: &GenerationLoad) -> f64 {
        (load.streams * load.prompt) as f64 / self.first_token[1]
    }

    /// Tokens of answers a second while all are written; nothing where answers are too short for that.
    pub fn decode_rate(&self) -> Option<f64> {
        (self.together_tokens > 0).then(|| self.together_tokens as f64 / self.together)
    }

    /// Tokens of answers a second from the asking to the end.
    pub fn whole_rate(&self, load: &GenerationLoad) -> f64 {
        (load.streams * load.new) as f64 / self.whole
    }
}

/// A tokenizer for tokens that nobody reads.
fn without_tokens() -> Result<Tokenizer> {
    let json = br#"{"version":"1.0","added_tokens":[],"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,
        "use_regex":true},"model":{"type":"BPE","vocab":{},"merges":[]}}"#;
    Tokenizer::new(json, None, None)
}

/// An engine that answers this load at once, and no more.
fn engine<'m>(
    model: &'m CausalLm,
    load: &GenerationLoad,
    deterministic: bool,
) -> Result<Engine<'m>> {
    let length = load.prompt + load.new;
    Engine::new(
        model,
        Arc::new(without_tokens()?),
        EngineOptions {
            max_batch_size: load.streams,
            max_length: Some(length),
            prefix_cache: false,
            deterministic,
            ..EngineOptions::default()
        },
    )
}

/// Answers a load twice, first with short answers, so that kernels are loaded and memory is there, and returns the times of the
/// second.
pub fn time(
    model: &CausalLm,
    load: &GenerationLoad,
    sampling: &Sampling,
    deterministic: bool,
) -> Result<Timed> {
    let positions = model.config().architecture.max_position_embeddings;
    ensure!(
        load.prompt + load.new <= positions,
        "loads: {load} has {} tokens a stream, the model has {positions} positions",
        load.prompt + load.new
    );
    let mut engine = engine(model, load, deterministic)?;
    let warm_up = GenerationLoad {
        new: load.new.min(4),
        ..*load
    };
    answer(&mut engine, model, &warm_up, sampling)?;
    answer(&mut engine, model, load, sampling)
}

fn answer(
    engine: &mut Engine<'_>,
    model: &CausalLm,
    load: &GenerationLoad,
    sampling: &Sampling,
) -> Result<Timed> {
    let vocabulary = model.config().architecture.vocab_size;
    let prompts = vec![load.prompt; load.streams];
    let prompts = lengths::rows(&prompts, 1.0, vocabulary, (sampling.seed, 0));
    let mut counts: HashMap<RequestId, usize> = HashMap::new();
    let begun = Instant::now();
    for (number, prompt) in prompts.into_iter().enumerate() {
        let sampling = Sampling {
            max_new_tokens: load.new,
            ..sampling.clone()
        };
        let request = Request {
            number: number as u64,
            ..Request::new(prompt.input_ids, sampling)
        };
        counts.insert(engine.add(request)?, 0);
    }
    let mut first_token: Option<[f64; 2]> = None;
    let (mut waiting, mut ended) = (load.streams, None);
    let mut together_tokens = 0;
    while !engine.is_idle() {
        let events = engine.step()?;
        let now = begun.elapsed().as_secs_f64();
        let all_had_begun = waiting == 0;
        for event in events {
            match event {
                Event::Token { id, .. } => {
                    let count = counts.entry(id).or_default();
                    *count += 1;
                    if *count == 1 {
                        waiting -= 1;
                        first_token.get_or_insert([now; 2])[1] = now;
                    }
                    together_tokens += usize::from(all_had_begun && ended.is_none());
                }
                Event::Finished { .. } => {
                    ended.get_or_insert(now);
                }
                Event::Failed { error, .. } => return Err(error),
            }
        }
    }
    let whole = begun.elapsed().as_secs_f64();
    let Some(first_token) = first_token else {
        bail!("load {load}: no answer has begun")
    };
    Ok(Timed {
        first_token,
        together: ended.unwrap_or(whole) - first_token[1],
        together_tokens,
        whole,
    })
}
