//! Calls of tools in their several spellings, and several calls of one message put in the order in
//! which harmony can hold them: each before its result.

use super::{
    keys::{KeyPath, has_value, take, take_id, take_if},
    row::{columns, entries, kind},
};
use apus_sdk::{Error, Message, Result, ToolCall};
use serde_json::{Map, Value};

/// The prefix of the names of functions in harmony.
pub const FUNCTIONS: &str = "functions.";

/// The index of a call in its message.
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
    /// For a tool's result, the name of its author.
    pub function: Option<String>,
}

impl Linked {
    /// A message that is linked to no other.
    pub fn new(message: Message) -> Self {
        Self {
            message,
            ids: Vec::new(),
            function: None,
        }
    }

    /// Whether the author of this result names this function.
    fn is_of(&self, function: &str) -> bool {
        self.function
            .as_deref()
            .is_some_and(|name| name == function || name.strip_prefix(FUNCTIONS) == Some(function))
    }

    /// The renderers name the function that was called last as the author of a result. A name of another
    /// form than harmony's is no more than a label.
    fn fits(&self, call: &Message) -> std::result::Result<(), String> {
        let (Some(name), [call]) = (&self.function, call.tool_calls.as_slice()) else {
            return Ok(());
        };
        if name.starts_with(FUNCTIONS) && !self.is_of(&call.name) {
            return Err(format!(
                "a result of `{name}`, but the call before it is of `{FUNCTIONS}{}`",
                call.name
            ));
        }
        Ok(())
    }
}

/// The calls of a message: `tool_calls`, or `function_call` of OpenAI's older form.
///
/// # Errors
/// A value that is not a call, or has no name; two calls in the two forms that are not the same.
pub fn of_message(fields: &mut Map<String, Value>, at: &KeyPath) -> Result<Vec<Call>> {
    let name = "tool_calls";
    let mut calls = read_all(take(fields, &[name]), &at.key(name))?;
    let name = "function_call";
    let value = match take(fields, &[name]) {
        Some(Value::String(text)) => match super::literal::read(&text) {
            _ if text.trim().is_empty() => Value::Null,
            Ok(value) => value,
            Err(error) => return Err(Error::new(format!("`{name}` must be an object: {error}"))),
        },
        value => value.unwrap_or_default(),
    };
    if has_value(&value) {
        let call = read(value, &at.key(name))?;
        match calls.as_slice() {
            [] => calls.push(call),
            [known] if known.call == call.call => {}
            _ => {
                return Err(Error::new(
                    "`tool_calls` and `function_call` hold different calls; leave one of them out",
                ));
            }
        }
    }
    Ok(calls)
}

/// A message to a function, as harmony has it: its content is the arguments.
///
/// # Errors
/// Content that is no JSON.
pub fn by_recipient(function: &str, content: Value) -> Result<Call> {
    let arguments = match arguments(Some(content))? {
        Value::String(text) => apus_sdk::json::read(&text).map_err(|error| {
            Error::new(format!(
                "the content of a call of `{FUNCTIONS}{function}` must be JSON: {error}"
            ))
        })?,
        arguments => arguments,
    };
    Ok(Call {
        call: ToolCall {
            name: function.to_owned(),
            arguments,
        },
        id: None,
    })
}

/// `tool_calls` of an OpenAI message. Where a table has a column for the older form, it is empty here.
///
/// # Errors
/// A value that is not a call, or has no name.
fn read_all(value: Option<Value>, at: &KeyPath) -> Result<Vec<Call>> {
    match value {
        None => Ok(Vec::new()),
        Some(Value::Array(calls)) => {
            let calls =
                entries(calls).map_err(|error| Error::new(format!("`tool_calls`: {error}")))?;
            let calls = calls.into_iter().enumerate();
            calls.map(|(i, call)| read(call, &at.item(i))).collect()
        }
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Vec::new()),
        Some(Value::String(text)) => match super::literal::read(&text) {
            Ok(Value::String(_)) | Err(_) => Err(Error::new(
                "`tool_calls` must be a list, found text that is none",
            )),
            Ok(value) => read_all(Some(value).filter(|value| !value.is_null()), at),
        },
        Some(other) => Err(Error::new(format!(
            "`tool_calls` must be a list, found {}",
            kind(&other)
        ))),
    }
}

/// One call: `{"id": .., "function": {"name": .., "arguments": ..}}`, or the function alone.
pub fn read(value: Value, at: &KeyPath) -> Result<Call> {
    let Value::Object(mut fields) = value else {
        return Err(no_object(&value));
    };
    let id = take_id(&mut fields, "id");
    take_if(&mut fields, "type", |kind| kind == "function");
    let function = match take(&mut fields, &["function"]) {
        Some(Value::String(text)) => Some(super::literal::read(&text).map_err(|error| {
            Error::new(format!("the `function` of a tool call is no JSON: {error}"))
        })?),
        function => function,
    };
    let call = match function {
        Some(Value::Object(mut function)) => {
            let call = named(&mut function)?;
            at.key("function").note_rest(&function, HARMLESS)?;
            call
        }
        Some(other) => return Err(no_object(&other)),
        None => named(&mut fields)?,
    };
    at.note_rest(&fields, HARMLESS)?;
    Ok(Call { call, id })
}

fn no_object(value: &Value) -> Error {
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
pub fn read_content(content: Value, at: &KeyPath) -> Result<Call> {
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
/// stands, that text would be quoted a second time, so the object is taken out of it. Text with nothing in
/// it, and the text of null, are no arguments.
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
        _ if text.trim().is_empty() => Ok(Value::Object(Map::new())),
        Ok(Value::Null) => Ok(Value::Object(Map::new())),
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
        let in_message = |what| Error::new(format!("message {}: {what}", i + 1));
        if let [call] = singles.as_slice() {
            for result in &results {
                result.fits(&call.message).map_err(in_message)?;
            }
        }
        if singles.len() == 1 || results.is_empty() || (single && singles.len() != results.len()) {
            out.extend(singles.into_iter().chain(results).map(|m| m.message));
            continue;
        }
        spread(singles, results, &mut out).map_err(in_message)?;
    }
    Ok(out)
}

/// A message for each call of a message.
fn singles(linked: Linked) -> Vec<Linked> {
    let Linked {
        mut message, ids, ..
    } = linked;
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
            ids: vec![id],
            ..Linked::new(message)
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
    let functions: Vec<String> = calls
        .iter()
        .flat_map(|call| &call.message.tool_calls)
        .map(|call| call.name.clone())
        .collect();
    for (i, Linked { message, ids, .. }) in calls.into_iter().enumerate() {
        let id = ids.into_iter().next().flatten();
        let by_id = |result: &Linked| id.is_some() && result.ids.first() == Some(&id);
        let without_id = |result: &Linked| result.ids.first().is_none_or(Option::is_none);
        let by_name = |result: &Linked| {
            let own = functions.get(i).is_some_and(|name| result.is_of(name));
            without_id(result) && own
        };
        let nameless = |result: &Linked| {
            without_id(result) && !functions.iter().any(|name| result.is_of(name))
        };
        let at = results.iter().position(by_id);
        let at = at.or_else(|| results.iter().position(by_name));
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
        let result = results.remove(at);
        result.fits(&message)?;
        out.push(message);
        out.push(result.message);
    }
    match results.len() {
        0 => Ok(()),
        more => Err(format!("{more} more results than calls")),
    }
}
