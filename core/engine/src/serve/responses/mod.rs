//! `/v1/responses`, without state: what a client wants to go on from, it sends along.

mod events;
mod input;
mod items;
mod object;

use super::answer::{Reading, ReadingOptions};
use super::chat::{Schema, ToolChoice, shape, tools};
use super::http::body::Refused;
use super::http::{ApiError, sse};
use super::sampling::{SamplingFields, refused};
use super::server::{Served, Server, now, random_id};
use super::worker::{AnswerEvent, Ask};
use axum::Json;
use axum::response::{IntoResponse, Response};
use input::{Input, conversation};
use items::Items;
use object::{Shown, status};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::Arc;

/// What a request has beside how tokens are chosen.
#[derive(Debug, Deserialize)]
pub struct ResponseRequest {
    model: Option<String>,
    input: Input,
    instructions: Option<String>,
    stream: Option<bool>,
    #[serde(rename = "stream_options")]
    _stream_options: Option<Value>,
    max_output_tokens: Option<usize>,
    top_logprobs: Option<usize>,
    include: Option<Vec<String>>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    reasoning: Option<ReasoningOptions>,
    text: Option<TextOptions>,
    chat_template_kwargs: Option<Map<String, Value>>,
    metadata: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct ReasoningOptions {
    effort: Option<String>,
    /// Reasoning is told as it is.
    #[serde(rename = "summary")]
    _summary: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct TextOptions {
    format: Option<Value>,
    verbosity: Option<String>,
}

/// The field that names a schema.
const FORMAT: &str = "text.format";
/// What `include` says for log-probabilities.
const LOGPROBS: &str = "message.output_text.logprobs";

const REFUSED: &[Refused] = &[
    refused(
        "previous_response_id",
        &[],
        "nothing is stored: send the items of the conversation as input",
    ),
    refused(
        "conversation",
        &[],
        "nothing is stored: send the items of the conversation as input",
    ),
    refused(
        "prompt",
        &[],
        "no prompts are stored: send instructions and input",
    ),
    refused(
        "background",
        &["false"],
        "nothing is stored: wait for the response, or stream it",
    ),
    refused(
        "truncation",
        &["\"disabled\""],
        "a prompt that is too long is refused, not cut",
    ),
    refused(
        "context_management",
        &["[]"],
        "the conversation is answered as it is",
    ),
    refused("modalities", &["[\"text\"]"], "there is text alone"),
    refused("n", &["1"], "a response is one answer"),
    refused(
        "response_format",
        &["{\"type\":\"text\"}"],
        "its name is text.format",
    ),
    refused("max_tokens", &[], "its name is max_output_tokens"),
];

struct Prepared {
    ask: Ask,
    reading: ReadingOptions,
    prompt: usize,
    shown: Shown,
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
    let read = super::http::body::read::<ResponseRequest, SamplingFields>(
        body,
        &[REFUSED, super::sampling::REFUSED],
    )?;
    served.unknown(read.unknown);
    let (request, fields) = read.fields;
    let stream = request.stream.unwrap_or(false);
    let model = server.model(request.model.as_deref())?;
    let at = Arc::clone(&server);
    let prepared = tokio::task::spawn_blocking(move || prepare(&at, request, &fields, model)).await;
    let prepared = prepared.map_err(ApiError::server)??;
    served.prompt(prepared.prompt);
    let mut answers = server.worker.ask(prepared.ask).await?;
    let mut reading = Reading::new(prepared.reading);
    if stream {
        let events = events::ResponseEvents::new(
            answers,
            reading,
            prepared.shown,
            prepared.prompt,
            served.take(),
        );
        return Ok(sse::response(events));
    }
    let mut items = Items::default();
    while let Some((index, event)) = answers.next().await? {
        match event {
            AnswerEvent::Token { token, logprobs } => {
                for piece in reading.push(token, logprobs.as_ref()) {
                    items.add(piece);
                }
                if reading.word().is_some() {
                    answers.cancel(index);
                }
            }
            AnswerEvent::Finished(reason) => {
                for piece in reading.end(&reason) {
                    items.add(piece);
                }
            }
            AnswerEvent::Failed(_) => {}
        }
    }
    let (status, details) = status(reading.word());
    items.close(status);
    let (tokens, reasoning) = reading.tokens();
    served.generated(tokens);
    let usage = object::usage(prepared.prompt, tokens, reasoning);
    let object = prepared.shown.json(status, details, items.json(), usage);
    Ok(Json(object).into_response())
}

fn prepare(
    server: &Server,
    request: ResponseRequest,
    fields: &SamplingFields,
    model: super::server::Named,
) -> Result<Prepared, ApiError> {
    let choice = ToolChoice::read(request.tool_choice.as_ref())?;
    let offered = tools(request.tools.as_deref().unwrap_or_default())?;
    let format = request.text.as_ref().and_then(|text| text.format.clone());
    if let Some(verbosity) = request
        .text
        .as_ref()
        .and_then(|text| text.verbosity.as_deref())
        && verbosity != "medium"
    {
        return Err(ApiError::of(
            "text.verbosity",
            "is not supported: say it in the instructions",
        ));
    }
    let schema = match &format {
        None | Some(Value::Null) => None,
        Some(format) => Schema::read(format, FORMAT)?,
    };
    let mask = match shape(schema, &offered, &choice)? {
        Some((shape, param)) => {
            let param = if param == "response_format" {
                FORMAT
            } else {
                param
            };
            Some(server.constraints.mask(&shape, param)?)
        }
        None => None,
    };
    let includes = |what: &str| {
        request
            .include
            .iter()
            .flatten()
            .any(|included| included == what)
    };
    let logprobs = match (request.top_logprobs, includes(LOGPROBS)) {
        (None | Some(0), false) => None,
        (top, _) => Some(server.top_logprobs("top_logprobs", top.unwrap_or(0))?),
    };
    let effort = request
        .reasoning
        .as_ref()
        .and_then(|reasoning| reasoning.effort.clone());
    let mut conversation = conversation(&request.input, request.instructions.as_deref())?;
    conversation.template_kwargs = request.chat_template_kwargs.unwrap_or_default();
    if let Some(effort) = &effort {
        let kwargs = &mut conversation.template_kwargs;
        kwargs.insert("reasoning_effort".to_owned(), effort.as_str().into());
    }
    if choice != ToolChoice::Never {
        conversation.tools = offered;
    }
    server.dated(&mut conversation);
    let prompt = server.encoder.prompt(&conversation);
    let (_, prompt) = prompt.map_err(|error| ApiError::of("input", format!("{error:#}")))?;
    let limit = request.max_output_tokens;
    let sampling = server.sampling(fields, prompt.len(), limit, "max_output_tokens")?;
    let shown = Shown {
        id: format!("resp_{}", random_id()),
        model: model.name,
        created: now(),
        instructions: request.instructions,
        max_output_tokens: limit,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        effort,
        format,
        tools: request.tools.unwrap_or_default(),
        tool_choice: request.tool_choice,
        top_logprobs: request.top_logprobs.unwrap_or(0),
        metadata: request.metadata,
    };
    Ok(Prepared {
        reading: ReadingOptions {
            tokenizer: Arc::clone(server.encoder.tokenizer()),
            dialect: server.encoder.dialect(),
            stop: fields.stop_strings()?,
            stop_ids: fields.stop_ids(),
        },
        prompt: prompt.len(),
        shown,
        ask: Ask {
            prompts: vec![prompt],
            n: 1,
            sampling,
            is_seeded: fields.seed.is_some(),
            stop: server.stop_ids(fields),
            logprobs,
            adapter: model.adapter,
            mask,
            time: server.options.request_timeout,
        },
    })
}

/// Reads a request as far as it can be read without a server.
pub fn read_anything(body: &[u8]) {
    let read = super::http::body::read::<ResponseRequest, SamplingFields>(
        body,
        &[REFUSED, super::sampling::REFUSED],
    );
    if let Ok(read) = read {
        let (request, _) = read.fields;
        let _ = conversation(&request.input, request.instructions.as_deref());
        let _ = tools(request.tools.as_deref().unwrap_or_default());
        let _ = ToolChoice::read(request.tool_choice.as_ref());
    }
}
