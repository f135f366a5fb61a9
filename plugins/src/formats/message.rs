//! Lists of messages: role and content under any of their usual names, or ShareGPT's pairs.

use super::{
    calls::{self, Linked},
    content,
    keys::{At, take},
    marks::{Marks, RowMarks},
    pairs,
    row::{columns, kind},
};
use apus_sdk::{Error, Message, Result};
use serde_json::Value;

const ROLE: [&str; 2] = ["role", "from"];
const CONTENT: [&str; 2] = ["content", "value"];
const THINKING: [&str; 3] = ["thinking", "reasoning_content", "reasoning"];
/// Who or what a message comes from.
const HARMLESS: &[&str] = &[
    "name",
    "id",
    "tool_call_id",
    "index",
    "model",
    "timestamp",
    "created_at",
    "finish_reason",
    "stop_reason",
    "usage",
];

/// Reads a list of messages. As in ms-swift, a first entry with neither role nor content makes it a
/// list of pairs.
///
/// # Errors
/// The number of the message (from 1), what was found and what was expected.
pub fn read_all(items: Vec<Value>, marks: &RowMarks, at: &At) -> Result<Vec<Message>> {
    let Some(first) = items.first() else {
        return Err("the list of messages is empty".into());
    };
    if pairs::is_pair(first) {
        return pairs::read_all(items, marks, at);
    }
    marks.fit(items.len(), "messages")?;
    let mut messages = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let number = |error| Error::new(format!("message {}: {error}", i + 1));
        let marks = |own| marks.of(i, own);
        read(item, marks, &at.item(i), &mut messages).map_err(number)?;
    }
    calls::one_by_one(messages)
}

/// Adds the message of one entry; results of tools that stand inside it become messages before it.
fn read(
    item: Value,
    marks: impl FnOnce(Marks) -> Result<Marks>,
    at: &At,
    out: &mut Vec<Linked>,
) -> Result<()> {
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
    let marks = marks(Marks::take(&mut fields)?)?;
    let calls_at = at.key("tool_calls");
    let mut calls = calls::read_all(take(&mut fields, &["tool_calls"]), &calls_at)?;
    let mut found = match take(&mut fields, &CONTENT) {
        Some(value) if is_call(&name) => content::Content {
            value,
            ..content::Content::default()
        },
        Some(value) => content::read(value, is_tool, &at.key("content"))?,
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
        let value = std::mem::take(&mut found.value);
        calls.push(calls::read_content(value, &at.key("content"))?);
    }
    if !calls.is_empty() && role != "assistant" {
        return Err(Error::new(format!(
            "only the assistant calls tools, found a call by `{name}`"
        )));
    }
    let has_results = !found.results.is_empty();
    for result in found.results {
        let mut message = Message {
            role: "tool".to_owned(),
            content: result.value,
            ..Message::default()
        };
        write(&marks, &mut message, at);
        out.push(Linked {
            message,
            ids: vec![result.id],
        });
    }
    if has_results && found.value.is_null() {
        return at.leave(&fields, HARMLESS);
    }
    let mut ids: Vec<Option<String>> = calls.iter().map(|call| call.id.clone()).collect();
    if is_tool && let Some(Value::String(id)) = take(&mut fields, &["tool_call_id"]) {
        ids.push(Some(id));
    }
    let speaks = role == "assistant";
    if found.thinking.is_some() && !speaks {
        at.note(&format!("content[].thinking ({role})"), false);
    }
    let thinking = match take(&mut fields, if speaks { &THINKING } else { &[] }) {
        None => found.thinking.filter(|_| speaks),
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
    let mut message = Message {
        role: role.to_owned(),
        content: found.value,
        channel: None,
        thinking,
        tool_calls: calls.into_iter().map(|call| call.call).collect(),
        ..Message::default()
    };
    write(&marks, &mut message, at);
    out.push(Linked { message, ids });
    at.leave(&fields, HARMLESS)
}

/// Writes marks into a message, and notes one that cannot be obeyed.
pub fn write(marks: &Marks, message: &mut Message, at: &At) {
    if let Some(mark) = marks.write(message) {
        at.note(&format!("{mark} ({})", message.role), false);
    }
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
