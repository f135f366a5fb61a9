//! One message of a list: role and content under any of their usual names.

use super::{
    content,
    row::{columns, kind},
};
use apus_sdk::{Error, Message, Result, ToolCall};
use serde_json::{Map, Value};

const ROLE: [&str; 2] = ["role", "from"];
const CONTENT: [&str; 2] = ["content", "value"];
const THINKING: [&str; 3] = ["thinking", "reasoning_content", "reasoning"];

/// Reads a list of messages.
///
/// # Errors
/// The number of the message (from 1), what was found and what was expected.
pub fn read_all(items: Vec<Value>) -> Result<Vec<Message>> {
    if items.is_empty() {
        return Err("the list of messages is empty".into());
    }
    let read_one = |(i, item): (usize, Value)| {
        read(item).map_err(|error| Error::new(format!("message {}: {error}", i + 1)))
    };
    items.into_iter().enumerate().map(read_one).collect()
}

fn read(item: Value) -> Result<Message> {
    let Value::Object(mut fields) = item else {
        return Err(Error::new(format!(
            "must be an object, found {}",
            kind(&item)
        )));
    };
    let name = match take(&mut fields, &ROLE) {
        Some(Value::String(name)) => name,
        _ => {
            return Err(Error::new(format!(
                "no `role` (or `from`); its keys are {}",
                columns(&fields)
            )));
        }
    };
    let role = role(&name)?;
    let is_tool = role == "tool";
    let calls = tool_calls(take(&mut fields, &["tool_calls"]))?;
    let content = match take(&mut fields, &CONTENT) {
        Some(value) => content::read(value, is_tool)?,
        None if !calls.is_empty() || fields.contains_key("content") => content::Content::default(),
        None => {
            return Err(Error::new(format!(
                "no `content` (or `value`); its keys are {}",
                columns(&fields)
            )));
        }
    };
    let mut message = Message {
        role: role.to_owned(),
        content: content.value,
        thinking: content.thinking,
        tool_calls: calls,
        loss: flag(take(&mut fields, &["loss"]))?,
        loss_scale: weight(take(&mut fields, &["loss_scale"]))?,
    };
    match take(&mut fields, &THINKING) {
        None => {}
        Some(Value::String(text)) => message.thinking = Some(text),
        Some(other) => {
            return Err(Error::new(format!(
                "`thinking` must be text, found {}",
                kind(&other)
            )));
        }
    }
    if name == "tool_call" || name == "function_call" {
        message.tool_calls = vec![bare_call(std::mem::take(&mut message.content))?];
    } else if message.content.is_null() && message.tool_calls.is_empty() && !is_tool {
        return Err("`content` is null".into());
    }
    Ok(message)
}

/// The first of these keys whose value is not null.
fn take(fields: &mut Map<String, Value>, names: &[&str]) -> Option<Value> {
    let name = names
        .iter()
        .find(|name| fields.get(**name).is_some_and(|value| !value.is_null()))?;
    fields.shift_remove(*name)
}

fn role(name: &str) -> Result<&'static str> {
    Ok(match name {
        "system" => "system",
        "developer" => "developer",
        "user" | "human" => "user",
        "assistant" | "gpt" | "bot" | "model" | "tool_call" | "function_call" => "assistant",
        "tool" | "tool_response" | "function_response" | "function" | "observation"
        | "observations" | "tool-response" | "function-response" => "tool",
        other => {
            return Err(Error::new(format!(
                "unknown role `{other}`, expected system, developer, user (human), assistant \
                 (gpt, bot), tool, tool_call (function_call) or tool_response (observation)"
            )));
        }
    })
}

fn flag(value: Option<Value>) -> Result<Option<bool>> {
    match value {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(Value::Number(n)) => Ok(Some(n.as_f64().is_some_and(|n| n != 0.0))),
        Some(other) => Err(Error::new(format!(
            "`loss` must be true or false, found {}",
            kind(&other)
        ))),
    }
}

fn weight(value: Option<Value>) -> Result<Option<f64>> {
    match value.as_ref().map(|value| (value, value.as_f64())) {
        None => Ok(None),
        Some((_, Some(weight))) if weight.is_finite() && weight >= 0.0 => Ok(Some(weight)),
        Some((found, _)) => Err(Error::new(format!(
            "`loss_scale` must be a number of 0 or more, found {found}"
        ))),
    }
}

fn tool_calls(value: Option<Value>) -> Result<Vec<ToolCall>> {
    match value {
        None => Ok(Vec::new()),
        Some(Value::Array(calls)) => calls.into_iter().map(tool_call).collect(),
        Some(other) => Err(Error::new(format!(
            "`tool_calls` must be a list, found {}",
            kind(&other)
        ))),
    }
}

fn tool_call(value: Value) -> Result<ToolCall> {
    let inner = match value {
        Value::Object(mut fields) => match fields.shift_remove("function") {
            Some(function) => function,
            None => Value::Object(fields),
        },
        other => other,
    };
    let Value::Object(mut fields) = inner else {
        return Err(Error::new(format!(
            "a tool call must be an object, found {}",
            kind(&inner)
        )));
    };
    let Some(Value::String(name)) = fields.shift_remove("name") else {
        return Err(Error::new(format!(
            "a tool call has no `name`; its keys are {}",
            columns(&fields)
        )));
    };
    let arguments = fields.shift_remove("arguments").unwrap_or(Value::Null);
    Ok(ToolCall {
        name,
        arguments: unquote(arguments),
    })
}

/// OpenAI's API stores arguments as the JSON text of an object. Rendered as it stands, that text
/// would be quoted a second time, so the object is taken out of it.
fn unquote(arguments: Value) -> Value {
    match arguments {
        Value::Null => Value::Object(Map::new()),
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(Value::Object(object)) => Value::Object(object),
            _ => Value::String(text),
        },
        other => other,
    }
}

/// ms-swift's `tool_call` role: the call is the content, as an object or as its JSON text.
fn bare_call(content: Value) -> Result<ToolCall> {
    let value = match &content {
        Value::String(text) => serde_json::from_str(text).map_err(|error| {
            Error::new(format!(
                "the content of a tool call must be JSON with `name` and `arguments`: {error}"
            ))
        })?,
        _ => content,
    };
    tool_call(value)
}
