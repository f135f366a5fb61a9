//! Answers that a handler waits for.

use super::{Added, Command, Worker};
use crate::generate::{FinishReason, Request, Sampling, Stop, TokenLogprobs, TokenMask};
use crate::serve::http::ApiError;
use crate::serve::metrics::{Metrics, Outcome};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::timeout_at;

/// Events that wait for a slow reader, for each answer. At 500 tokens a second that is 16 seconds beside what the system keeps of a
/// connection.
const WAITING: usize = 8192;

/// What comes of an answer.
#[derive(Debug)]
pub enum AnswerEvent {
    /// A token.
    Token {
        /// Its id.
        token: u32,
        /// Its log-probability, if it was asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The end.
    Finished(FinishReason),
    /// The answer has failed.
    Failed(String),
}

/// Makes a mask for an answer that has not begun.
pub type MakeMask = Box<dyn Fn() -> Box<dyn TokenMask> + Send>;

/// What is asked: `n` answers to each prompt.
pub struct Ask {
    /// The tokens of the prompts.
    pub prompts: Vec<Vec<u32>>,
    /// Answers to each of them.
    pub n: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Whether the client gave a seed, so that the same request has the same answers.
    pub is_seeded: bool,
    /// What ends an answer.
    pub stop: Vec<u32>,
    /// The most probable tokens to tell.
    pub logprobs: Option<usize>,
    /// The adapter that answers.
    pub adapter: Option<String>,
    /// Makes what an answer is held to.
    pub mask: Option<MakeMask>,
    /// The most that the answers may take.
    pub time: Duration,
}

/// Answers that are being generated. They are cancelled when this is dropped before their end.
pub struct Answers {
    events: mpsc::Receiver<(usize, AnswerEvent)>,
    keys: Vec<u64>,
    /// Which answers go on.
    is_open: Vec<bool>,
    commands: Sender<Command>,
    deadline: tokio::time::Instant,
    time: Duration,
    started: Instant,
    has_begun: bool,
    has_failed: bool,
    metrics: Arc<Metrics>,
    _places: OwnedSemaphorePermit,
}

impl Worker {
    /// Starts to answer; the answer with index `i * n + j` is the `j`th to the `i`th prompt.
    ///
    /// # Errors
    /// Too many answers wait already, more are asked for than may ever wait, the engine cannot answer such a request, or it has
    /// ended.
    pub async fn ask(&self, ask: Ask) -> Result<Answers, ApiError> {
        let count = ask.prompts.len() * ask.n;
        if count > self.most {
            return Err(ApiError::invalid(format!(
                "{count} answers are asked for at once, expected at most {}",
                self.most
            )));
        }
        let places = Arc::clone(&self.places)
            .try_acquire_many_owned(u32::try_from(count).unwrap_or(u32::MAX));
        let places = places.map_err(|_| {
            self.metrics.ended(Outcome::Rejected, count);
            ApiError::too_many(self.most - self.places.available_permits())
        })?;
        let (events, receiver) = mpsc::channel(WAITING * count.max(1));
        let first = self.next.fetch_add(count as u64, Ordering::Relaxed);
        let mut answers = Answers {
            events: receiver,
            keys: Vec::new(),
            is_open: vec![true; count],
            commands: self.commands.clone(),
            deadline: tokio::time::Instant::now() + ask.time,
            time: ask.time,
            started: Instant::now(),
            has_begun: false,
            has_failed: false,
            metrics: Arc::clone(&self.metrics),
            _places: places,
        };
        let added = |index: usize| Added {
            key: first + index as u64,
            index,
            request: Request {
                prompt: ask.prompts[index / ask.n].clone(),
                sampling: ask.sampling.clone(),
                stop: Stop {
                    ids: ask.stop.clone(),
                    strings: Vec::new(),
                },
                number: match ask.is_seeded {
                    true => index as u64,
                    false => first + index as u64,
                },
                adapter: ask.adapter.clone(),
                logprobs: ask.logprobs,
                mask: ask.mask.as_ref().map(|make| make()),
            },
        };
        let requests: Vec<Added> = (0..count).map(added).collect();
        answers.keys = requests.iter().map(|added| added.key).collect();
        drop(ask);
        let (reply, taken) = oneshot::channel();
        let command = Command::Add {
            requests,
            events,
            reply,
        };
        self.commands
            .send(command)
            .map_err(|_| ApiError::ending())?;
        // An error is told by its status, so that nothing is sent before the engine has taken all of it.
        let taken = timeout_at(answers.deadline, taken).await;
        let taken = taken.map_err(|_| ApiError::timeout(answers.time.as_secs_f64()))?;
        if let Err(error) = taken.unwrap_or_else(|_| Err(ApiError::ending())) {
            answers.has_failed = true;
            return Err(error);
        }
        Ok(answers)
    }
}

impl Answers {
    /// The next event and the index of its answer; `None` when all answers have ended. What was told is not told again, and a call
    /// that is dropped loses nothing.
    ///
    /// # Errors
    /// The time is over, the answer has failed, or the client has read too slowly.
    pub async fn next(&mut self) -> Result<Option<(usize, AnswerEvent)>, ApiError> {
        let error = loop {
            if !self.is_open.contains(&true) {
                return Ok(None);
            }
            match timeout_at(self.deadline, self.events.recv()).await {
                // What was on its way when the answer was cancelled.
                Ok(Some((index, _))) if !self.is_open[index] => {}
                Ok(Some((_, AnswerEvent::Failed(message)))) => break ApiError::server(message),
                Ok(Some((index, event))) => {
                    self.count(index, &event);
                    return Ok(Some((index, event)));
                }
                Ok(None) => {
                    break ApiError::server(
                        "The answer was given up: the engine has ended, or the client has read too slowly",
                    );
                }
                Err(_) => break ApiError::timeout(self.time.as_secs_f64()),
            }
        };
        self.has_failed = true;
        Err(error)
    }

    fn count(&mut self, index: usize, event: &AnswerEvent) {
        match event {
            AnswerEvent::Finished(_) => {
                self.is_open[index] = false;
                self.metrics.ended(Outcome::Completed, 1);
            }
            _ if !self.has_begun => {
                self.has_begun = true;
                self.metrics.first_token.observe(self.started.elapsed());
            }
            _ => {}
        }
    }

    /// Cancels one of the answers, of which no more is needed.
    pub fn cancel(&mut self, index: usize) {
        if std::mem::replace(&mut self.is_open[index], false) {
            // The engine may have ended.
            let _ = self.commands.send(Command::Cancel(self.keys[index]));
            self.metrics.ended(Outcome::Completed, 1);
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.metrics.answer_time.observe(self.started.elapsed());
        let open = self.is_open.iter().filter(|open| **open).count();
        if open == 0 {
            return;
        }
        let outcome = match self.has_failed {
            true => Outcome::Failed,
            false => Outcome::Cancelled,
        };
        self.metrics.ended(outcome, open);
        for (key, _) in self
            .keys
            .iter()
            .zip(&self.is_open)
            .filter(|(_, open)| **open)
        {
            let _ = self.commands.send(Command::Cancel(*key));
        }
    }
}
