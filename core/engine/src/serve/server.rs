//! What all requests share: the model and its names, defaults, and what is said of each request.

use super::constrain::Constraints;
use super::http::ApiError;
use super::http::keys::Keys;
use super::metrics::Metrics;
use super::models::Models;
use super::sampling::SamplingFields;
use super::worker::Worker;
use crate::generate::Sampling;
use apus_base::lines::info;
use apus_data::chat::Encoder;
use apus_sdk::Conversation;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// The settings of a server that requests meet.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The most tokens of an answer if a request does not say.
    pub max_new_tokens: Option<usize>,
    /// The most tokens of a prompt.
    pub max_prompt: Option<usize>,
    /// The most tokens whose log-probabilities are told at each place.
    pub max_logprobs: usize,
    /// The most bytes of a body.
    pub max_body_bytes: usize,
    /// The most that a request may take.
    pub request_timeout: Duration,
    /// The most that a client may take to send a body.
    pub client_timeout: Duration,
    /// A line for each request.
    pub verbose: bool,
    /// Whether only this machine reaches the server, so that requests for other host names come from a page of somebody else.
    pub only_here: bool,
    /// Whether the date of prompts is that of the day of the request.
    pub dates_itself: bool,
    /// The folder below which adapters may be added.
    pub adapters_dir: Option<PathBuf>,
    /// The flags of the server without secrets, which the tuners of these adapters are shown.
    pub flags: Map<String, Value>,
}

/// A server.
pub struct Server {
    /// Its settings.
    pub options: ServeOptions,
    /// How tokens are chosen where a request does not say.
    pub defaults: Sampling,
    /// What turns conversations into prompts.
    pub encoder: Encoder,
    /// What holds answers to shapes.
    pub constraints: Constraints,
    /// The engine.
    pub worker: Worker,
    /// The models that can be named.
    pub models: Models,
    /// The keys of clients.
    pub keys: Keys,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Whether the server ends.
    pub ending: watch::Receiver<bool>,
}

/// A model that a request names.
pub struct Named {
    /// Its name.
    pub name: String,
    /// The adapter, if it is one.
    pub adapter: Option<String>,
}

impl Server {
    /// The model of this name; without one it is the base.
    ///
    /// # Errors
    /// There is none.
    pub fn model(&self, name: Option<&str>) -> Result<Named, ApiError> {
        let base = self.models.base();
        let name = name.unwrap_or(base);
        if name == base {
            return Ok(Named {
                name: name.to_owned(),
                adapter: None,
            });
        }
        match self.models.has_adapter(name) {
            true => Ok(Named {
                name: name.to_owned(),
                adapter: Some(name.to_owned()),
            }),
            false => Err(ApiError::unknown_model(name, &self.models.names())),
        }
    }

    /// How the tokens of an answer to a prompt of this length are chosen. `limit` is the most tokens, which the field `param` says.
    ///
    /// # Errors
    /// A value out of its range, or a prompt that is too long.
    pub fn sampling(
        &self,
        fields: &SamplingFields,
        prompt: usize,
        limit: Option<usize>,
        param: &str,
    ) -> Result<Sampling, ApiError> {
        let most = self.worker.loaded.max_length;
        let longest = self.options.max_prompt.unwrap_or(most).min(most);
        if prompt > longest {
            let error = format!("The prompt has {prompt} tokens, expected at most {longest}");
            return Err(ApiError::invalid(error).code("context_length_exceeded"));
        }
        if limit == Some(0) {
            return Err(ApiError::of(param, "is 0, expected 1 or more"));
        }
        // The last token of an answer takes no position.
        let room = most + 1 - prompt;
        let mut sampling = fields.sampling(&self.defaults, self.encoder.tokenizer())?;
        sampling.max_new_tokens = limit
            .or(self.options.max_new_tokens)
            .unwrap_or(room)
            .min(room);
        Ok(sampling)
    }

    /// The tokens at which an answer ends.
    pub fn stop_ids(&self, fields: &SamplingFields) -> Vec<u32> {
        let mut ids = fields.stop_ids();
        if !fields.ignore_eos.unwrap_or(false) {
            let dialect = self.encoder.dialect();
            ids.extend(self.encoder.tokenizer().stop_ids(dialect.stop_tokens()));
        }
        ids
    }

    /// How many log-probabilities a request may have.
    ///
    /// # Errors
    /// More than the server tells.
    pub fn top_logprobs(&self, param: &str, top: usize) -> Result<usize, ApiError> {
        let most = self.options.max_logprobs;
        match top <= most {
            true => Ok(top),
            false => Err(ApiError::of(
                param,
                format!("is {top}, expected at most {most}"),
            )),
        }
    }

    /// Gives a conversation the date of today, unless it, or the server, has one.
    pub fn dated(&self, conversation: &mut Conversation) {
        if self.options.dates_itself {
            let today = chrono::Local::now().format("%Y-%m-%d").to_string();
            let kwargs = &mut conversation.template_kwargs;
            kwargs.entry("current_date").or_insert_with(|| today.into());
        }
    }

    /// Whether the server takes no more requests.
    pub fn is_ending(&self) -> bool {
        *self.ending.borrow()
    }
}

/// What is said of a request in the log, once it has ended.
#[derive(Debug, Default)]
pub struct Served {
    line: Option<Line>,
}

#[derive(Debug)]
struct Line {
    id: String,
    route: String,
    started: Instant,
    status: u16,
    notes: Vec<String>,
    prompt: usize,
    generated: Option<usize>,
}

impl Served {
    /// A request that has just come; nothing is said of it if it is not `verbose`.
    pub fn new(id: &str, route: &str, verbose: bool) -> Self {
        Self {
            line: verbose.then(|| Line {
                id: id.to_owned(),
                route: route.to_owned(),
                started: Instant::now(),
                status: 200,
                notes: Vec::new(),
                prompt: 0,
                generated: None,
            }),
        }
    }

    /// Hands the line on to whoever sends the answer in parts.
    pub fn take(&mut self) -> Self {
        Self {
            line: self.line.take(),
        }
    }

    /// Fields that nobody knows.
    pub fn unknown(&mut self, fields: Vec<String>) {
        if let Some(line) = &mut self.line
            && !fields.is_empty()
        {
            let shown: Vec<String> = fields
                .iter()
                .take(8)
                .map(|field| field.escape_debug().take(60).collect())
                .collect();
            line.notes
                .push(format!("unknown fields are not used: {}", shown.join(", ")));
        }
    }

    /// Tokens of the prompt.
    pub fn prompt(&mut self, tokens: usize) {
        if let Some(line) = &mut self.line {
            line.prompt = tokens;
        }
    }

    /// Tokens of the answers, which are complete.
    pub fn generated(&mut self, tokens: usize) {
        if let Some(line) = &mut self.line {
            line.generated = Some(tokens);
        }
    }

    /// The status of the response, and a note on why it is an error.
    pub fn failed(&mut self, error: &ApiError) {
        if let Some(line) = &mut self.line {
            line.status = error.status().as_u16();
            let text: String = error.to_string().escape_debug().take(300).collect();
            line.notes.push(text);
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let Some(line) = self.line.take() else {
            return;
        };
        let tokens = match (line.prompt, line.generated) {
            (0, None) => String::new(),
            (prompt, Some(generated)) => {
                format!(", {prompt} prompt tokens, {generated} generated tokens")
            }
            (prompt, None) if line.status == 200 => {
                format!(", {prompt} prompt tokens, ended by the client")
            }
            (prompt, None) => format!(", {prompt} prompt tokens"),
        };
        let notes: String = line.notes.iter().map(|note| format!("; {note}")).collect();
        let seconds = line.started.elapsed().as_secs_f64();
        info!(
            "{} {}: {}, {seconds:.3} s{tokens}{notes}",
            line.id, line.route, line.status
        );
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// A random id of 24 letters.
pub fn random_id() -> String {
    format!("{:032x}", rand::random::<u128>())[..24].to_owned()
}
