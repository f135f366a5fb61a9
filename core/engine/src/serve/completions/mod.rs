//! `/v1/completions`: texts that go on, without a chat template.

mod choice;
mod chunks;
mod prompt;

use super::chat::Usage;
use super::http::body::Refused;
use super::http::{ApiError, sse};
use super::sampling::{SamplingFields, refused};
use super::server::{Served, Server, now, random_id};
use super::worker::{AnswerEvent, Ask, Scores};
use axum::Json;
use axum::response::{IntoResponse, Response};
use choice::{Choice, Echo};
use prompt::Prompt;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// What a request has beside how tokens are chosen.
#[derive(Debug, Deserialize)]
pub struct CompletionRequest {
    model: Option<String>,
    prompt: Prompt,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    n: Option<usize>,
    best_of: Option<usize>,
    max_tokens: Option<usize>,
    logprobs: Option<usize>,
    echo: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

const REFUSED: &[Refused] = &[
    refused("suffix", &["\"\""], "there is no text after the answer"),
    refused(
        "response_format",
        &["{\"type\":\"text\"}"],
        "/v1/chat/completions has it",
    ),
    refused("tools", &["[]"], "/v1/chat/completions has them"),
];

/// The most tokens of an answer if a request does not say, as OpenAI's.
const MAX_TOKENS: usize = 16;

/// What every part of an answer has in common.
struct Shown {
    id: String,
    model: String,
    created: u64,
}

impl Shown {
    fn response(&self, choices: Value, usage: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": null,
            "choices": choices,
            "usage": usage,
        })
    }
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
    let read = super::http::body::read::<CompletionRequest, SamplingFields>(
        body,
        &[REFUSED, super::sampling::REFUSED],
    )?;
    served.unknown(read.unknown);
    let (request, fields) = read.fields;
    let model = server.model(request.model.as_deref())?;
    let (n, echo) = (request.n.unwrap_or(1), request.echo.unwrap_or(false));
    if n == 0 || request.best_of.is_some_and(|best| best != n) {
        return Err(ApiError::of(
            "n",
            "expected 1 or more, and best_of, if it is given, the same",
        ));
    }
    let shown = Shown {
        id: format!("cmpl-{}", random_id()),
        model: model.name,
        created: now(),
    };
    let at = Arc::clone(&server);
    let prompt = request.prompt;
    let prompts = tokio::task::spawn_blocking(move || prompt.tokens(&at)).await;
    let prompts = prompts.map_err(ApiError::server)??;
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let prompt_tokens = prompts.iter().map(Vec::len).sum();
    served.prompt(prompt_tokens);
    let top = request
        .logprobs
        .map(|top| server.top_logprobs("logprobs", top))
        .transpose()?;
    let limit = request
        .max_tokens
        .unwrap_or(server.options.max_new_tokens.unwrap_or(MAX_TOKENS));
    if limit == 0 && !echo {
        return Err(ApiError::of(
            "max_tokens",
            "is 0, expected 1 or more, or echo",
        ));
    }
    let sampling = server.sampling(&fields, longest, Some(limit.max(1)), "max_tokens")?;
    let stop = fields.stop_strings()?;
    let mut choices = Vec::with_capacity(prompts.len() * n);
    for tokens in &prompts {
        let echo = match (echo, top) {
            (false, _) => Echo::Nothing,
            (true, None) => Echo::Text(tokens.clone()),
            (true, Some(top)) => {
                let time = server.options.request_timeout;
                let adapter = model.adapter.clone();
                let scores: Scores = server
                    .worker
                    .score(tokens.clone(), adapter, top, time)
                    .await?;
                Echo::Scores(tokens.clone(), scores)
            }
        };
        let tokenizer = server.encoder.tokenizer();
        choices.extend(
            (0..n)
                .map(|_| Choice::new(Arc::clone(tokenizer), &stop, fields.stop_ids(), top, &echo)),
        );
    }
    let answers = match limit {
        0 => None,
        _ => Some(
            server
                .worker
                .ask(Ask {
                    prompts,
                    n,
                    sampling,
                    is_seeded: fields.seed.is_some(),
                    stop: server.stop_ids(&fields),
                    logprobs: top,
                    adapter: model.adapter,
                    mask: None,
                    time: server.options.request_timeout,
                })
                .await?,
        ),
    };
    if request.stream.unwrap_or(false) {
        let options = request.stream_options;
        let usage = options.is_some_and(|options| options.include_usage.unwrap_or(false));
        let chunks =
            chunks::Chunks::new(answers, choices, shown, usage, prompt_tokens, served.take());
        return Ok(sse::response(chunks));
    }
    if let Some(mut answers) = answers {
        while let Some((index, event)) = answers.next().await? {
            if take(&mut choices[index], &event) {
                answers.cancel(index);
            }
        }
    } else {
        choices.iter_mut().for_each(|choice| choice.end("length"));
    }
    let usage = Usage::of(
        prompt_tokens,
        choices.iter().map(|choice| (choice.tokens(), 0)),
    );
    served.generated(usage.completion_tokens);
    let choices: Vec<Value> = choices
        .iter_mut()
        .enumerate()
        .map(|(index, choice)| choice.json(index))
        .collect();
    Ok(Json(shown.response(choices.into(), usage.json())).into_response())
}

/// Hands an event to its answer; says whether no more of it is needed although it goes on.
fn take(choice: &mut Choice, event: &AnswerEvent) -> bool {
    match event {
        _ if choice.has_ended() => false,
        AnswerEvent::Token { token, logprobs } => {
            choice.push(*token, logprobs.as_ref());
            choice.has_ended()
        }
        AnswerEvent::Finished(reason) => {
            choice.end(match reason {
                crate::generate::FinishReason::Length => "length",
                _ => "stop",
            });
            false
        }
        AnswerEvent::Failed(_) => false,
    }
}

/// Reads a request as far as it can be read without a server.
pub fn read_anything(body: &[u8]) {
    // What cannot be read is an error, and that is all that has to hold.
    let _ = super::http::body::read::<CompletionRequest, SamplingFields>(
        body,
        &[REFUSED, super::sampling::REFUSED],
    );
}
