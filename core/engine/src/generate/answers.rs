//! Answers to conversations through the engine: one that is shown while it is generated, or many at once.

use super::engine::{
    AnswerText, Engine, Event, FinishReason, Request, RequestId, Stop, TokenLogprobs, first_stop,
};
use super::{Counts, Sampling};
use anyhow::{Result, bail};
use apus_base::signals;
use apus_data::chat::Encoder;
use apus_sdk::{Conversation, Message};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// A conversation whose next message is to be generated.
#[derive(Debug, Clone)]
pub struct Job {
    /// The conversation.
    pub conversation: Conversation,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The number of the answer, which has random numbers of its own.
    pub number: u64,
    /// The name of the adapter that answers; `None` is the model as it is loaded.
    pub adapter: Option<String>,
    /// Strings and tokens that end the answer, besides those at which the model's own answers end.
    pub stop: Stop,
    /// Whether the string that ended the answer stays in its text.
    pub keeps_stop: bool,
    /// How many of the most probable tokens are told at each token, beside the one that was chosen.
    pub logprobs: Option<usize>,
}

impl Job {
    /// A conversation for the model as it is loaded.
    pub fn new(conversation: Conversation, sampling: Sampling, number: u64) -> Self {
        Self {
            conversation,
            sampling,
            number,
            adapter: None,
            stop: Stop::default(),
            keeps_stop: false,
            logprobs: None,
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The assistant's message.
    pub message: Message,
    /// The whole text, including special tokens; the stop string that ended it if the job keeps it.
    pub text: String,
    /// Its tokens, those of a stop string included.
    pub tokens: Vec<u32>,
    /// What was told at each of them, if the job asks for log-probabilities.
    pub logprobs: Vec<TokenLogprobs>,
    /// Its length in tokens.
    pub counts: Counts,
    /// Why it ended.
    pub reason: FinishReason,
}

impl Answer {
    /// Whether it was cut off at the greatest number of tokens.
    pub fn is_cut_off(&self) -> bool {
        self.reason == FinishReason::Length
    }
}

/// A job in the engine.
struct Asked {
    index: usize,
    prompt: usize,
    stop: Vec<String>,
    keeps_stop: bool,
    logprobs: Vec<TokenLogprobs>,
}

fn ask(
    engine: &mut Engine,
    encoder: &Encoder,
    index: usize,
    job: Job,
) -> Result<(RequestId, Asked)> {
    let (_, prompt) = encoder.prompt(&job.conversation)?;
    let asked = Asked {
        index,
        prompt: prompt.len(),
        stop: job.stop.strings.clone(),
        keeps_stop: job.keeps_stop,
        logprobs: Vec::new(),
    };
    let mut stop = job.stop;
    let ends = encoder.dialect().stop_tokens();
    stop.ids.extend(encoder.tokenizer().stop_ids(ends));
    let id = engine.add(Request {
        stop,
        number: job.number,
        adapter: job.adapter,
        logprobs: job.logprobs,
        ..Request::new(prompt, job.sampling)
    })?;
    Ok((id, asked))
}

impl Asked {
    fn answer(self, encoder: &Encoder, reason: FinishReason, tokens: Vec<u32>) -> Answer {
        let mut completion = encoder.tokenizer().rendered(&tokens);
        if let FinishReason::StopString(stop) = &reason
            && let Some(end) = first_stop(&completion.text, &self.stop)
        {
            let kept = if self.keeps_stop { stop.len() } else { 0 };
            completion = completion.slice(0..end + kept);
        }
        Answer {
            message: encoder.dialect().answer(&completion),
            text: completion.text,
            counts: Counts {
                samples: 1,
                prompt: self.prompt,
                generated: tokens.len(),
            },
            tokens,
            logprobs: self.logprobs,
            reason,
        }
    }
}

/// Generates the model's answer to a conversation, alone in the engine. `on_text` gets the text, including special tokens, while
/// it is generated, after each step of the engine; it says whether to go on. An answer that it stops has what was generated so
/// far.
///
/// # Errors
/// A signal, a request that cannot be answered, or an engine that is answering others.
pub fn respond(
    engine: &mut Engine,
    encoder: &Encoder,
    job: Job,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Answer> {
    if !engine.is_idle() {
        bail!("one answer is asked for while the engine is answering others");
    }
    let mut shown = AnswerText::new(&job.stop.strings);
    let (id, mut asked) = ask(engine, encoder, 0, job)?;
    loop {
        let mut text = String::new();
        for event in step(engine, &[id])? {
            match event {
                Event::Token {
                    token, logprobs, ..
                } => {
                    text += &shown.push(token, encoder.tokenizer(), true);
                    asked.logprobs.extend(logprobs);
                }
                Event::Finished { reason, tokens, .. } => {
                    text += &shown.end();
                    if let (FinishReason::StopString(stop), true) = (&reason, asked.keeps_stop) {
                        text += stop;
                    }
                    let _ = on_text(&text);
                    return Ok(asked.answer(encoder, reason, tokens));
                }
                Event::Failed { error, .. } => return Err(error),
            }
        }
        if on_text(&text).is_break() {
            engine.cancel(id);
        }
    }
}

/// Answers jobs, as many at once as the engine takes. Jobs are read as they are needed, and answers are handed over as they end,
/// with the index of their job. A job that cannot be answered is handed over with the reason. Jobs that come to an end while
/// others are being answered are asked for again: there may be none for now.
///
/// # Errors
/// A signal, an engine that cannot go on, or those of `on_answer`.
pub fn answers(
    engine: &mut Engine,
    encoder: &Encoder,
    jobs: impl IntoIterator<Item = Job>,
    on_answer: &mut dyn FnMut(usize, Result<Answer>) -> Result<()>,
) -> Result<Counts> {
    let mut jobs = jobs.into_iter().enumerate();
    let mut asked: HashMap<RequestId, Asked> = HashMap::new();
    let answered = answer_all(engine, encoder, &mut jobs, &mut asked, on_answer);
    if answered.is_err() {
        leave(engine, &asked.into_keys().collect::<Vec<_>>());
    }
    answered
}

fn answer_all(
    engine: &mut Engine,
    encoder: &Encoder,
    jobs: &mut dyn Iterator<Item = (usize, Job)>,
    asked: &mut HashMap<RequestId, Asked>,
    on_answer: &mut dyn FnMut(usize, Result<Answer>) -> Result<()>,
) -> Result<Counts> {
    let mut counts = Counts::default();
    loop {
        // One more than fits, so that a place that becomes free is taken in the next step.
        while asked.len() <= engine.options().max_batch_size
            && let Some((index, job)) = jobs.next()
        {
            match ask(engine, encoder, index, job) {
                Ok((id, job)) => drop(asked.insert(id, job)),
                Err(error) => on_answer(index, Err(error))?,
            }
        }
        if asked.is_empty() {
            return Ok(counts);
        }
        signals::check()?;
        for event in engine.step()? {
            let id = event.id();
            if let Event::Token { logprobs, .. } = event {
                if let (Some(job), Some(logprobs)) = (asked.get_mut(&id), logprobs) {
                    job.logprobs.push(logprobs);
                }
                continue;
            }
            let Some(job) = asked.remove(&id) else {
                continue;
            };
            let index = job.index;
            let answer = match event {
                Event::Finished { reason, tokens, .. } => Ok(job.answer(encoder, reason, tokens)),
                Event::Failed { error, .. } => Err(error),
                Event::Token { .. } => continue,
            };
            if let Ok(answer) = &answer {
                counts.add(&answer.counts);
            }
            on_answer(index, answer)?;
        }
    }
}

/// A step of an engine that has these requests alone; they are cancelled if a signal came.
fn step(engine: &mut Engine, ids: &[RequestId]) -> Result<Vec<Event>> {
    let events = signals::check()
        .map_err(Into::into)
        .and_then(|()| engine.step());
    if events.is_err() {
        leave(engine, ids);
    }
    events
}

/// Takes requests out of an engine, with what it has to tell of them.
fn leave(engine: &mut Engine, ids: &[RequestId]) {
    for id in ids {
        engine.forget(*id);
    }
}
