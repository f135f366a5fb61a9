//! `/v1/chat/completions`.

mod calls;
mod chunks;
mod messages;
mod request;
mod response;

pub use calls::{ToolChoice, call_id, shape, tools};
pub use messages::{Call, ChatMessage, Content, Function, conversation};
pub use request::Schema;
pub use response::Usage;

use super::answer::{Reading, ReadingOptions};
use super::http::{ApiError, sse};
use super::sampling::SamplingFields;
use super::server::{Served, Server};
use super::worker::{AnswerEvent, Answers, Ask};
use axum::Json;
use axum::response::{IntoResponse, Response};
use request::ChatRequest;
use std::sync::Arc;

/// What is needed to answer a request and to read its answers.
struct Prepared {
    ask: Ask,
    reading: ReadingOptions,
    prompt: usize,
}

/// Answers a request.
///
/// # Errors
/// A request that cannot be meant or answered.
pub async fn answer(
    server: Arc<Server>,
    body: &[u8],
    served: &mut Served,
) -> Result<Response, ApiError> {
    let read = super::http::body::read::<ChatRequest, SamplingFields>(
        body,
        &[request::REFUSED, super::sampling::REFUSED],
    )?;
    served.unknown(read.unknown);
    let (request, fields) = read.fields;
    let model = server.model(request.model.as_deref())?;
    let shown = response::Shown {
        id: format!("chatcmpl-{}", super::server::random_id()),
        model: model.name.clone(),
        created: super::server::now(),
        logprobs: request.logprobs.unwrap_or(false),
        include_reasoning: request.include_reasoning.unwrap_or(true),
    };
    let (stream, n) = (request.stream.unwrap_or(false), request.n.unwrap_or(1));
    let usage = request
        .stream_options
        .as_ref()
        .is_some_and(|options| options.include_usage.unwrap_or(false));
    if request.stream_options.is_some() && !stream {
        return Err(ApiError::of(
            "stream_options",
            "is there for streams alone: set stream to true",
        ));
    }
    let at = Arc::clone(&server);
    // Rendering, tokenising and compiling take long for long requests.
    let prepared =
        tokio::task::spawn_blocking(move || prepare(&at, &request, &fields, model.adapter));
    let prepared = prepared.await.map_err(ApiError::server)??;
    served.prompt(prepared.prompt);
    let answers = server.worker.ask(prepared.ask).await?;
    let readings: Vec<Reading> = (0..n)
        .map(|_| Reading::new(prepared.reading.clone()))
        .collect();
    if stream {
        let chunks = chunks::Chunks::new(
            answers,
            readings,
            shown,
            usage,
            prepared.prompt,
            served.take(),
        );
        return Ok(sse::response(chunks));
    }
    let read = collect(answers, readings).await?;
    let usage = response::Usage::of(
        prepared.prompt,
        read.iter().map(|(reading, _)| reading.tokens()),
    );
    served.generated(usage.completion_tokens);
    Ok(Json(response::whole(&shown, read, usage)).into_response())
}

/// Waits for all answers.
async fn collect(
    mut answers: Answers,
    readings: Vec<Reading>,
) -> Result<Vec<(Reading, super::answer::Whole)>, ApiError> {
    let mut read: Vec<_> = readings
        .into_iter()
        .map(|reading| (reading, super::answer::Whole::default()))
        .collect();
    while let Some((index, event)) = answers.next().await? {
        let (reading, whole) = &mut read[index];
        let has_ended = reading.word().is_some();
        match event {
            AnswerEvent::Token { token, logprobs } => {
                whole.add(reading.push(token, logprobs.as_ref()));
                if !has_ended && reading.word().is_some() {
                    answers.cancel(index);
                }
            }
            AnswerEvent::Finished(reason) => whole.add(reading.end(&reason)),
            AnswerEvent::Failed(_) => {}
        }
    }
    Ok(read)
}

fn prepare(
    server: &Server,
    request: &ChatRequest,
    fields: &SamplingFields,
    adapter: Option<String>,
) -> Result<Prepared, ApiError> {
    let n = request.n.unwrap_or(1);
    if n == 0 {
        return Err(ApiError::of("n", "is 0, expected 1 or more"));
    }
    let top = match (request.logprobs.unwrap_or(false), request.top_logprobs) {
        (false, Some(top)) if top > 0 => {
            return Err(ApiError::of("top_logprobs", "needs logprobs to be true"));
        }
        (false, _) => None,
        (true, top) => Some(server.top_logprobs("top_logprobs", top.unwrap_or(0))?),
    };
    let conversation = request.conversation(server)?;
    let (_, prompt) = server
        .encoder
        .prompt(&conversation)
        .map_err(|error| ApiError::of("messages", format!("{error:#}")))?;
    let mask = match request.shape()? {
        Some((shape, param)) => Some(server.constraints.mask(&shape, param)?),
        None => None,
    };
    let limit = request.max_completion_tokens.or(request.max_tokens);
    let sampling = server.sampling(fields, prompt.len(), limit, "max_completion_tokens")?;
    Ok(Prepared {
        reading: ReadingOptions {
            tokenizer: Arc::clone(server.encoder.tokenizer()),
            dialect: server.encoder.dialect(),
            stop: fields.stop_strings()?,
            stop_ids: fields.stop_ids(),
        },
        prompt: prompt.len(),
        ask: Ask {
            prompts: vec![prompt],
            n,
            sampling,
            is_seeded: fields.seed.is_some(),
            stop: server.stop_ids(fields),
            logprobs: top,
            adapter,
            mask,
            time: server.options.request_timeout,
        },
    })
}

/// Reads a request as far as it can be read without a server.
pub fn read_anything(body: &[u8]) {
    let read = super::http::body::read::<ChatRequest, SamplingFields>(
        body,
        &[request::REFUSED, super::sampling::REFUSED],
    );
    if let Ok(read) = read {
        let (request, fields) = read.fields;
        let _ = (request.read_anything(), fields.stop_strings());
    }
}
