//! Generation: the engine that answers many requests at once, a conversation on a terminal, answers to the rows of a dataset.

mod answers;
mod chat;
mod dataset;
mod defaults;
mod engine;
mod infer;
mod logits;
mod measure;
mod results;
mod sample;

pub use answers::{Answer, Job, answers, respond};
pub use engine::{
    AnswerText, Engine, EngineOptions, Event, FinishReason, Request, RequestId, Stats, Stop,
    TokenLogprobs, TokenMask,
};
pub use infer::infer;
pub use measure::{Answering, Reference, References, measure, split};
pub use sample::Sampling;

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

/// Generates the answer to one prompt, as text. The random numbers are a function of the prompt, so they are the same each
/// time that the prompt is answered during training.
pub fn answer(
    model: &CausalLm,
    encoder: &Encoder,
    prompt: &str,
    sampling: &Sampling,
) -> Result<String> {
    let conversation = Conversation {
        messages: vec![Message::new("user", prompt)],
        ..Conversation::default()
    };
    let mut number = [0; 8];
    number.copy_from_slice(&Sha256::digest(prompt)[..8]);
    let job = Job::new(conversation, sampling.clone(), u64::from_le_bytes(number));
    let (_, tokens) = encoder.prompt(&job.conversation)?;
    let options = EngineOptions {
        max_batch_size: 1,
        // The cache is made for this answer, beside a run that needs the memory.
        max_length: Some(tokens.len() + sampling.max_new_tokens),
        ..EngineOptions::default()
    };
    let mut engine = Engine::new(model, Arc::clone(encoder.tokenizer()), options)?;
    let answer = respond(&mut engine, encoder, job, &mut |_| {})?;
    Ok(answer.message.text().unwrap_or_default().to_owned())
}
