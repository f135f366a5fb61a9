//! Lists of messages: role and content under any of their usual names, or ShareGPT's pairs.

use super::{
    calls::{self, Linked},
    content, pairs,
    row::{columns, kind},
};
use apus_sdk::{Error, Message, Result};
use serde_json::{Map, Value};

const ROLE: [&str; 2] = ["role", "from"];
const CONTENT: [&str; 2] = ["content", "value"];
const THINKING: [&str; 3] = ["thinking", "reasoning_content", "reasoning"];

/// Reads a list of messages. As in ms-swift, a first entry with neither role nor content makes it a
/// list of pairs.
///
/// # Errors
/// The number of the message (from 1), what was found and what was expected.
pub fn read_all(items: Vec<Value>) -> Result<Vec<Message>> {
    let Some(first) = items.first() else {
        return Err("the list of messages is empty".into());
    };
    if pairs::is_pair(first) {
        return pairs::read_all(&items);
    }
    let mut messages = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let number = |error| Error::new(format!("message {}: {error}", i + 1));
        read(item, &mut messages).map_err(number)?;
    }
    calls::one_by_one(messages)
}

/// Adds the message of one entry; results of tools that stand inside it become messages before it.
fn read(item: Value, out: &mut Vec<Linked>) -> Result<()> {
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
    let mut calls = calls::read_all(take(&mut fields, &["tool_calls"]))?;
    let mut found = match take(&mut fields, &CONTENT) {
        Some(value) if is_call(&name) => content::Content {
            value,
            ..content::Content::default()
        },
        Some(value) => content::read(value, is_tool)?,
        None if !calls.is_empty() || fields.contains_key("content") => content::Content::default(),
        None => {
            return Err(Error::new(format!(
                "no `content` (or `value`); its keys are {}",
                columns(&fields)
            )));
        }
    };
    calls.append(&mut found.calls);
    if is_call(&name) {
        calls = vec![calls::read_content(std::mem::take(&mut found.value))?];
    }
    if !calls.is_empty() && role != "assistant" {
        return Err(Error::new(format!(
            "only the assistant calls tools, found a call by `{name}`"
        )));
    }
    let has_results = !found.results.is_empty();
    for result in found.results {
        out.push(Linked {
            message: Message {
                role: "tool".to_owned(),
                content: result.value,
                ..Message::default()
            },
            ids: vec![result.id],
        });
    }
    if has_results && found.value.is_null() {
        return Ok(());
    }
    let mut ids: Vec<Option<String>> = calls.iter().map(|call| call.id.clone()).collect();
    if is_tool && let Some(Value::String(id)) = take(&mut fields, &["tool_call_id"]) {
        ids.push(Some(id));
    }
    let thinking = match take(&mut fields, &THINKING) {
        None => found.thinking,
        Some(Value::String(text)) => Some(text),
        Some(other) => {
            return Err(Error::new(format!(
                "`thinking` must be text, found {}",
                kind(&other)
            )));
        }
    };
    if found.value.is_null() && calls.is_empty() && !is_tool {
        return Err("`content` is null".into());
    }
    let message = Message {
        role: role.to_owned(),
        content: found.value,
        channel: None,
        thinking,
        tool_calls: calls.into_iter().map(|call| call.call).collect(),
        loss: flag(take(&mut fields, &["loss"]))?,
        loss_scale: weight(take(&mut fields, &["loss_scale"]))?,
    };
    out.push(Linked { message, ids });
    Ok(())
}

/// The first of these keys whose value is not null.
fn take(fields: &mut Map<String, Value>, names: &[&str]) -> Option<Value> {
    let name = names
        .iter()
        .find(|name| fields.get(**name).is_some_and(|value| !value.is_null()))?;
    fields.shift_remove(*name)
}

fn is_call(name: &str) -> bool {
    matches!(plain(name).as_str(), "tool_call" | "function_call")
}

/// A dash is as good as an underscore.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

fn role(name: &str) -> Result<&'static str> {
    Ok(match plain(name).as_str() {
        "system" => "system",
        "developer" => "developer",
        "user" | "human" => "user",
        "assistant" | "gpt" | "bot" | "model" | "tool_call" | "function_call" => "assistant",
        "tool" | "tool_response" | "function_response" | "function" | "observation"
        | "observations" => "tool",
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
        Some((_, Some(weight))) if (weight as f32).is_finite() && weight >= 0.0 => Ok(Some(weight)),
        Some((found, _)) => Err(Error::new(format!(
            "`loss_scale` must be a number from 0 to {:e}, found {found}",
            f32::MAX
        ))),
    }
}
