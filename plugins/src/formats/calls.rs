//! Calls of tools in their several spellings, and several calls of one message put in the order in
//! which harmony can hold them: each before its result.

use super::{
    keys::{At, take},
    row::{columns, kind},
};
use apus_sdk::{Error, Message, Result, ToolCall};
use serde_json::{Map, Value};

/// Which call of a message it is.
const HARMLESS: &[&str] = &["id", "index", "call_id"];

/// A call, and the id by which results name it.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The call.
    pub call: ToolCall,
    /// Its id, if it has one.
    pub id: Option<String>,
}

/// A message, and the ids of its calls or of the call that it answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Linked {
    /// The message.
    pub message: Message,
    /// One for each call; for a tool's result, that of its call.
    pub ids: Vec<Option<String>>,
}

/// `tool_calls` of an OpenAI message.
///
/// # Errors
/// A call that is none, or without a name.
pub fn read_all(value: Option<Value>, at: &At) -> Result<Vec<Call>> {
    match value {
        None => Ok(Vec::new()),
        Some(Value::Array(calls)) => {
            let calls = calls.into_iter().enumerate();
            calls.map(|(i, call)| read(call, &at.item(i))).collect()
        }
        Some(other) => Err(Error::new(format!(
            "`tool_calls` must be a list, found {}",
            kind(&other)
        ))),
    }
}

/// One call: `{"id": .., "function": {"name": .., "arguments": ..}}`, or the function alone.
///
/// # Errors
/// As [`read_all`].
pub fn read(value: Value, at: &At) -> Result<Call> {
    let Value::Object(mut fields) = value else {
        return Err(none(&value));
    };
    let id = match take(&mut fields, &["id"]) {
        Some(Value::String(id)) => Some(id),
        _ => None,
    };
    if fields.get("type").is_some_and(|kind| kind == "function") {
        take(&mut fields, &["type"]);
    }
    let call = match take(&mut fields, &["function"]) {
        Some(Value::Object(mut function)) => {
            let call = named(&mut function)?;
            at.key("function").leave(&function, HARMLESS)?;
            call
        }
        Some(other) => return Err(none(&other)),
        None => named(&mut fields)?,
    };
    at.leave(&fields, HARMLESS)?;
    Ok(Call { call, id })
}

fn none(value: &Value) -> Error {
    Error::new(format!(
        "a tool call must be an object, found {}",
        kind(value)
    ))
}

/// The call that an object with a name and arguments is.
fn named(fields: &mut Map<String, Value>) -> Result<ToolCall> {
    let Some(Value::String(name)) = take(fields, &["name"]) else {
        return Err(Error::new(format!(
            "a tool call has no `name`; its keys are {}",
            columns(fields)
        )));
    };
    let found = take(fields, &["arguments", "parameters"]);
    Ok(ToolCall {
        name,
        arguments: arguments(found)?,
    })
}

/// ms-swift's `tool_call` role: the call is the content, as an object or as its JSON text.
///
/// # Errors
/// Text that is not JSON, or as [`read_all`].
pub fn read_content(content: Value, at: &At) -> Result<Call> {
    let value = match &content {
        Value::String(text) => super::literal::read(text).map_err(|error| {
            Error::new(format!(
                "the content of a tool call must be JSON with `name` and `arguments`: {error}"
            ))
        })?,
        _ => content,
    };
    read(value, at)
}

/// OpenAI's API stores arguments as the JSON text of an object (some datasets as Python's). Rendered as it
/// stands, that text would be quoted a second time, so the object is taken out of it.
///
/// # Errors
/// Text that begins as an object and is none.
pub fn arguments(found: Option<Value>) -> Result<Value> {
    let text = match found {
        None | Some(Value::Null) => return Ok(Value::Object(Map::new())),
        Some(Value::String(text)) => text,
        Some(other) => return Ok(other),
    };
    match super::literal::read(&text) {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        Err(error) if text.trim_start().starts_with('{') => Err(Error::new(format!(
            "the arguments of a tool call begin as an object and are neither JSON's nor Python's: {error}"
        ))),
        _ => Ok(Value::String(text)),
    }
}

/// One message for each call, followed by its result. Results that name a call by id go to it, the
/// others in their order; the reasoning and the content stay with a message's first call. Messages
/// that hold one call each stay where they are unless each has a result.
///
/// # Errors
/// Fewer or more results than the calls of a message.
pub fn one_by_one(messages: Vec<Linked>) -> Result<Vec<Message>> {
    let mut out = Vec::with_capacity(messages.len());
    let mut messages = messages.into_iter().enumerate().peekable();
    while let Some((i, linked)) = messages.next() {
        if linked.message.tool_calls.is_empty() {
            out.push(linked.message);
            continue;
        }
        let mut calls = vec![linked];
        while let Some((_, next)) = messages.next_if(|(_, m)| !m.message.tool_calls.is_empty()) {
            calls.push(next);
        }
        let mut results = Vec::new();
        while let Some((_, next)) = messages.next_if(|(_, m)| m.message.role == "tool") {
            results.push(next);
        }
        let single = calls.iter().all(|call| call.message.tool_calls.len() == 1);
        let singles: Vec<Linked> = calls.into_iter().flat_map(singles).collect();
        if singles.len() == 1 || results.is_empty() || (single && singles.len() != results.len()) {
            out.extend(singles.into_iter().chain(results).map(|m| m.message));
            continue;
        }
        let in_message = |what| Error::new(format!("message {}: {what}", i + 1));
        spread(singles, results, &mut out).map_err(in_message)?;
    }
    Ok(out)
}

/// A message for each call of a message.
fn singles(linked: Linked) -> Vec<Linked> {
    let Linked { mut message, ids } = linked;
    let calls = std::mem::take(&mut message.tool_calls);
    let rest = Message {
        role: message.role.clone(),
        loss: message.loss,
        loss_scale: message.loss_scale,
        ..Message::default()
    };
    let mut messages = std::iter::once(message).chain(std::iter::repeat(rest));
    let pairs = calls.into_iter().zip(ids);
    let single = |(call, id)| {
        let mut message = messages.next()?;
        message.tool_calls = vec![call];
        Some(Linked {
            message,
            ids: vec![id],
        })
    };
    pairs.filter_map(single).collect()
}

fn spread(
    calls: Vec<Linked>,
    mut results: Vec<Linked>,
    out: &mut Vec<Message>,
) -> std::result::Result<(), String> {
    let n = calls.len();
    for (i, Linked { message, ids }) in calls.into_iter().enumerate() {
        let id = ids.into_iter().next().flatten();
        let named = |result: &Linked| id.is_some() && result.ids.first() == Some(&id);
        let nameless = |result: &Linked| result.ids.first().is_none_or(Option::is_none);
        let at = results.iter().position(named);
        let Some(at) = at.or_else(|| results.iter().position(nameless)) else {
            let name = message
                .tool_calls
                .first()
                .map_or("", |call| call.name.as_str());
            return Err(format!(
                "no result follows call {} of {n}, of `{name}`",
                i + 1
            ));
        };
        out.push(message);
        out.push(results.remove(at).message);
    }
    match results.len() {
        0 => Ok(()),
        more => Err(format!("{more} more results than calls")),
    }
}
