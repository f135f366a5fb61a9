//! The engine on a thread of its own, with the model. Handlers never touch either: requests and cancellations go there over a
//! channel, and what comes of a request goes back over one that is bounded.

mod answers;
mod score;

pub use answers::{AnswerEvent, Answers, Ask, MakeMask};
pub use score::Scores;

use super::http::ApiError;
use super::metrics::Metrics;
use crate::generate::{Engine, EngineOptions, Event, Request, RequestId, Stats};
use anyhow::{Context, Result, anyhow};
use apus_data::chat::Tokenizer;
use apus_model::model::CausalLm;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// What the thread is told.
enum Command {
    /// Answer these, all or none. The reply comes once they are taken.
    Add {
        requests: Vec<Added>,
        events: mpsc::Sender<(usize, AnswerEvent)>,
        reply: oneshot::Sender<Result<(), ApiError>>,
    },
    /// Nobody waits for this request any more.
    Cancel(u64),
    /// Load an adapter.
    Load(String, PathBuf, oneshot::Sender<Result<()>>),
    /// Unload an adapter.
    Unload(String, oneshot::Sender<Result<()>>),
    /// Tell the log-probabilities of these tokens.
    Score {
        tokens: Vec<u32>,
        top: usize,
        reply: oneshot::Sender<Result<Scores>>,
    },
    /// End.
    End,
}

/// A request with the index of its answer, and a key that names it from here on.
struct Added {
    key: u64,
    index: usize,
    request: Request,
}

/// What a model is served with.
pub struct WorkerSettings {
    /// Of the engine.
    pub engine: EngineOptions,
    /// Adapters that are loaded at the start, by name.
    pub adapters: Vec<(String, PathBuf)>,
    /// The most answers that wait, beside those that are generated.
    pub queue: usize,
}

/// What is known once the model is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Loaded {
    /// The most tokens of a prompt and its answer together.
    pub max_length: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
}

/// The engine's thread.
pub struct Worker {
    commands: Sender<Command>,
    places: Arc<Semaphore>,
    most: usize,
    stats: Arc<Mutex<Stats>>,
    metrics: Arc<Metrics>,
    next: std::sync::atomic::AtomicU64,
    /// What the model is, once it is loaded.
    pub loaded: Loaded,
}

/// The thread, to be waited for at the end.
pub struct WorkerThread {
    commands: Sender<Command>,
    thread: JoinHandle<Result<()>>,
}

impl WorkerThread {
    /// Ends the thread, and hands over what it ended with.
    ///
    /// # Errors
    /// The engine could not go on.
    pub fn end(self) -> Result<()> {
        // It may have ended by itself.
        let _ = self.commands.send(Command::End);
        self.thread
            .join()
            .map_err(|_| anyhow!("the engine's thread has panicked"))?
    }
}

/// Starts the thread, and waits until the model is loaded by `load` and its adapters are. `ending` becomes true if the engine
/// cannot go on.
///
/// # Errors
/// The model or an adapter cannot be loaded.
pub fn start(
    load: impl FnOnce() -> Result<CausalLm> + Send + 'static,
    tokenizer: Arc<Tokenizer>,
    settings: WorkerSettings,
    metrics: Arc<Metrics>,
    ending: watch::Sender<bool>,
) -> Result<(Worker, WorkerThread)> {
    let (commands, inbox) = channel();
    let (ready, is_ready) = channel();
    let stats = Arc::new(Mutex::new(Stats::default()));
    let most = settings.engine.max_batch_size + settings.queue;
    let shared = Arc::clone(&stats);
    let thread = std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || {
            let result = run(load, tokenizer, settings, inbox, &shared, &ready);
            if result.is_err() {
                let _ = ending.send(true);
            }
            result
        })?;
    let thread = WorkerThread {
        commands: commands.clone(),
        thread,
    };
    let Ok(loaded) = is_ready.recv() else {
        thread.end()?;
        return Err(anyhow!("the engine's thread has ended before it began"));
    };
    let worker = Worker {
        commands,
        places: Arc::new(Semaphore::new(most)),
        most,
        stats,
        metrics,
        next: std::sync::atomic::AtomicU64::new(0),
        loaded,
    };
    Ok((worker, thread))
}

impl Worker {
    /// Counts of the engine, as of its last step.
    pub fn stats(&self) -> Stats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Loads an adapter.
    ///
    /// # Errors
    /// It does not fit the model, or its name is taken.
    pub async fn load_adapter(&self, name: &str, dir: PathBuf) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Load(name.to_owned(), dir, reply))?;
        answer.await.context("the engine has ended")?
    }

    /// Unloads an adapter.
    ///
    /// # Errors
    /// There is none of this name, or requests are being answered with it.
    pub async fn unload_adapter(&self, name: &str) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Unload(name.to_owned(), reply))?;
        answer.await.context("the engine has ended")?
    }

    /// The log-probabilities of the tokens of a text, each after those before it, with the most probable ones in their places.
    ///
    /// # Errors
    /// The text is too long, too many answers wait, its time is over, or the engine has ended.
    pub async fn score(
        &self,
        tokens: Vec<u32>,
        adapter: Option<String>,
        top: usize,
        time: Duration,
    ) -> Result<Scores, ApiError> {
        if let Some(adapter) = adapter {
            return score::with_adapter(self, tokens, adapter, top, time).await;
        }
        let _place = self
            .places
            .try_acquire()
            .map_err(|_| ApiError::too_many(self.most))?;
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Score { tokens, top, reply })
            .map_err(|_| ApiError::ending())?;
        let scores = answer.await.map_err(|_| ApiError::ending())?;
        scores.map_err(|error| ApiError::invalid(format!("{error:#}")))
    }

    fn tell(&self, command: Command) -> Result<()> {
        self.commands
            .send(command)
            .map_err(|_| anyhow!("the engine has ended"))
    }
}

/// A request that is being answered, for the thread.
struct Asked {
    key: u64,
    index: usize,
    events: mpsc::Sender<(usize, AnswerEvent)>,
}

/// The thread's side.
struct Desk<'m> {
    engine: Engine<'m>,
    asked: HashMap<RequestId, Asked>,
    ids: HashMap<u64, RequestId>,
}

fn run(
    load: impl FnOnce() -> Result<CausalLm>,
    tokenizer: Arc<Tokenizer>,
    settings: WorkerSettings,
    inbox: Receiver<Command>,
    stats: &Mutex<Stats>,
    ready: &Sender<Loaded>,
) -> Result<()> {
    let model = load()?;
    let mut engine = Engine::new(&model, tokenizer, settings.engine)?;
    for (name, dir) in &settings.adapters {
        engine.load_adapter(name, dir)?;
    }
    let loaded = Loaded {
        max_length: engine.max_length(),
        vocabulary: model.config().architecture.vocab_size,
    };
    // Nobody waits any more if the start was given up.
    let _ = ready.send(loaded);
    let mut desk = Desk {
        engine,
        asked: HashMap::new(),
        ids: HashMap::new(),
    };
    loop {
        *stats.lock().unwrap_or_else(PoisonError::into_inner) = desk.engine.stats();
        let first = match desk.engine.is_idle() {
            true => match inbox.recv_timeout(Duration::from_secs(1)) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            },
            false => None,
        };
        for command in first.into_iter().chain(inbox.try_iter()) {
            if matches!(command, Command::End) {
                return Ok(());
            }
            desk.hear(command);
        }
        if !desk.engine.is_idle() {
            let events = desk.engine.step().context("the engine cannot go on")?;
            events.into_iter().for_each(|event| desk.deliver(event));
        }
    }
}

impl Desk<'_> {
    fn hear(&mut self, command: Command) {
        match command {
            Command::Add {
                requests,
                events,
                reply,
            } => {
                // Whoever asked may have gone, and cancels what was taken.
                let _ = reply.send(self.add(requests, &events));
            }
            Command::Cancel(key) => {
                if let Some(id) = self.ids.remove(&key) {
                    self.asked.remove(&id);
                    self.engine.forget(id);
                }
            }
            Command::Load(name, dir, reply) => {
                let _ = reply.send(self.engine.load_adapter(&name, &dir));
            }
            Command::Unload(name, reply) => {
                let _ = reply.send(self.engine.unload_adapter(&name));
            }
            Command::Score { tokens, top, reply } => {
                let _ = reply.send(score::score(&self.engine, &tokens, top));
            }
            Command::End => {}
        }
    }

    fn add(
        &mut self,
        requests: Vec<Added>,
        events: &mpsc::Sender<(usize, AnswerEvent)>,
    ) -> Result<(), ApiError> {
        let mut taken = Vec::with_capacity(requests.len());
        for Added {
            key,
            index,
            request,
        } in requests
        {
            let name = request.adapter.clone();
            match self.engine.add(request) {
                Ok(id) => {
                    self.ids.insert(key, id);
                    let events = events.clone();
                    self.asked.insert(id, Asked { key, index, events });
                    taken.push(key);
                }
                Err(error) => {
                    for key in taken {
                        self.hear(Command::Cancel(key));
                    }
                    // It was unloaded since its name was looked up.
                    return Err(match name {
                        Some(name) if !self.engine.adapters().contains(&name) => {
                            ApiError::unloaded(&name)
                        }
                        _ => ApiError::invalid(format!("{error:#}")),
                    });
                }
            }
        }
        Ok(())
    }

    /// Hands an event over. A client that reads too slowly, or has gone, loses its answer: nobody waits for it, and what it has
    /// not read is not kept without end.
    fn deliver(&mut self, event: Event) {
        let id = event.id();
        let (event, is_last) = match event {
            Event::Token {
                token, logprobs, ..
            } => (AnswerEvent::Token { token, logprobs }, false),
            Event::Finished { reason, .. } => (AnswerEvent::Finished(reason), true),
            Event::Failed { error, .. } => (AnswerEvent::Failed(format!("{error:#}")), true),
        };
        let Some(asked) = self.asked.get(&id) else {
            return;
        };
        let is_taken = asked.events.try_send((asked.index, event)).is_ok();
        if is_last || !is_taken {
            if let Some(asked) = self.asked.remove(&id) {
                self.ids.remove(&asked.key);
            }
            if !is_last {
                self.engine.forget(id);
            }
        }
    }
}
