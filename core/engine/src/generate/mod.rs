//! Generation: the engine that answers many requests at once, a conversation on a terminal, answers to the rows of a dataset.

mod adapters;
mod answers;
mod chat;
mod dataset;
mod defaults;
mod engine;
mod infer;
mod logits;
mod logprobs;
mod made_with;
mod measure;
mod questions;
mod results;
mod sample;
mod score;
mod target;

pub use answers::{Answer, Job, answers, respond};
pub(crate) use defaults::sampling as default_sampling;
pub use engine::{
    AnswerText, Engine, EngineOptions, Event, FinishReason, Request, RequestId, Stats, Stop,
    TokenLogprobs, TokenMask,
};
pub use infer::infer;
pub use measure::{Answering, Reference, References, SplitMetrics, measure, split};
pub use questions::{Asking, answer_questions};
pub use sample::Sampling;
pub(crate) use sample::token_logprobs;
pub(crate) use target::{InferTarget, adapter_folders};

use anyhow::Result;
use apus_data::chat::Encoder;
use apus_model::model::CausalLm;
use apus_sdk::{Conversation, Message};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Counts of answers and tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers.
    pub samples: usize,
    /// Tokens of the prompts.
    pub prompt: usize,
    /// Tokens of the answers.
    pub generated: usize,
}

impl Counts {
    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.prompt += other.prompt;
        self.generated += other.generated;
    }

    /// A line with the counts and the speed over this many seconds.
    pub fn line(&self, seconds: f64) -> String {
        format!(
            "{} answers, {} prompt tokens, {} generated tokens, {seconds:.1} s, {:.1} tokens/s",
            self.samples,
            self.prompt,
            self.generated,
            self.generated as f64 / seconds.max(1e-9)
        )
    }
}

/// An engine whose cache is made for so many answers at once, of so many tokens with their prompts: beside it a run may need the
/// memory.
fn engine_for<'m>(
    model: &'m CausalLm,
    encoder: &Encoder,
    (at_once, length): (usize, usize),
    deterministic: bool,
) -> Result<Engine<'m>> {
    let options = EngineOptions {
        max_batch_size: at_once.max(1),
        max_length: Some(length),
        deterministic,
        ..EngineOptions::default()
    };
    Engine::new(model, Arc::clone(encoder.tokenizer()), options)
}

/// How many prompts are answered at once during training.
const PROMPTS: usize = 16;

/// A number for the random numbers of an answer, which follows from what is asked.
fn number_of(asked: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&Sha256::digest(asked)[..8]);
    u64::from_le_bytes(number)
}

/// Generates the answers to prompts, as text, together. The random numbers are a function of the prompt, so they are the same each
/// time that the prompt is answered during training.
///
/// # Errors
/// A signal, or a prompt that cannot be answered.
pub fn answer_prompts(
    model: &CausalLm,
    encoder: &Encoder,
    prompts: &[String],
    (sampling, deterministic): (&Sampling, bool),
) -> Result<Vec<String>> {
    let job = |prompt: &String| {
        let conversation = Conversation {
            messages: vec![Message::new("user", prompt.as_str())],
            ..Conversation::default()
        };
        Job::new(conversation, sampling.clone(), number_of(prompt.as_bytes()))
    };
    if prompts.is_empty() {
        return Ok(Vec::new());
    }
    let jobs: Vec<Job> = prompts.iter().map(job).collect();
    let mut longest = 0;
    for job in &jobs {
        longest = longest.max(encoder.prompt(&job.conversation)?.1.len());
    }
    let length = longest + sampling.max_new_tokens;
    let at_once = prompts.len().min(PROMPTS);
    let mut engine = engine_for(model, encoder, (at_once, length), deterministic)?;
    let mut texts = vec![String::new(); prompts.len()];
    answers(&mut engine, encoder, jobs, &mut |index, answer| {
        texts[index] = answer?.message.text().unwrap_or_default().to_owned();
        Ok(())
    })?;
    Ok(texts)
}
