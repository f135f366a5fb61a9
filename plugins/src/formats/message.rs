//! Lists of messages: role and content under any of their usual names, harmony's own JSON, or ShareGPT's
//! pairs. Messages are not merged here: the engine joins those of one turn, after it has weighed
//! each text by the marks of its own message.

use super::{
    calls::{self, Linked},
    content::{self, Content},
    header::{self, Header},
    keys::{KeyPath, take, take_id, take_text},
    marks::{Marks, RowMarks},
    pairs, reasoning,
    row::{columns, kind},
    setting::{Setting, Typed},
};
use apus_sdk::{Error, Message, Result};
use serde_json::{Map, Value};

const ROLE: [&str; 2] = ["role", "from"];
const CONTENT: [&str; 2] = ["content", "value"];
/// Keys that tell where a message comes from, and change nothing.
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

/// A list of messages, as it was read.
#[derive(Debug, Default)]
pub struct MessageList {
    /// The messages.
    pub messages: Vec<Message>,
    /// What some of them set for the whole conversation.
    pub setting: Setting,
}

impl From<Vec<Message>> for MessageList {
    fn from(messages: Vec<Message>) -> Self {
        Self {
            messages,
            setting: Setting::default(),
        }
    }
}

/// Reads a list of messages. As in ms-swift, a first entry with neither role nor content makes it a
/// list of pairs.
///
/// # Errors
/// The number of the message (from 1), what was found and what was expected.
pub fn read_all(items: Vec<Value>, marks: &RowMarks, at: &KeyPath) -> Result<MessageList> {
    let Some(first) = items.first() else {
        return Err("the list of messages is empty".into());
    };
    if pairs::is_pair(first) {
        return pairs::read_all(items, marks, at).map(MessageList::from);
    }
    marks.fit(items.len(), "messages")?;
    let mut reader = Reader::default();
    for (i, item) in items.into_iter().enumerate() {
        let number = |error| Error::new(format!("message {}: {error}", i + 1));
        let marks = |own| marks.of(i, own);
        reader.read(item, marks, &at.item(i)).map_err(number)?;
    }
    Ok(MessageList {
        messages: calls::one_by_one(reader.messages)?,
        setting: reader.setting,
    })
}

#[derive(Default)]
struct Reader {
    messages: Vec<Linked>,
    setting: Setting,
}

impl Reader {
    /// Adds the message of one entry; results of tools that stand inside it become messages before it.
    fn read(
        &mut self,
        item: Value,
        marks: impl FnOnce(Marks) -> Result<Marks>,
        at: &KeyPath,
    ) -> Result<()> {
        let Value::Object(mut fields) = item else {
            return Err(Error::new(format!(
                "must be an object, found {}",
                kind(&item)
            )));
        };
        header::unfold_author(&mut fields, at)?;
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
        let marks = marks(Marks::take(&mut fields)?)?;
        let mut value = take(&mut fields, &CONTENT);
        if matches!(role, "system" | "developer")
            && let Some(content) = value
        {
            value = Some(match self.setting.typed(content, &at.key("content"))? {
                Typed::Other(content) => content,
                Typed::Read(Some(instructions)) => instructions.into(),
                Typed::Read(None) => {
                    write(&marks, &mut Message::new(role, ""), at);
                    return at.note_rest(&fields, HARMLESS);
                }
            });
        }
        let (mut entry, ids) = match role {
            "assistant" => assistant(&name, value, &mut fields, at)?,
            _ => others(&name, role, value, &mut fields, at)?,
        };
        let function = match role {
            "tool" => take_text(&mut fields, "name"),
            _ => None,
        };
        for result in std::mem::take(&mut entry.results) {
            let mut message = Message {
                role: "tool".to_owned(),
                content: result.value,
                ..Message::default()
            };
            write(&marks, &mut message, at);
            self.messages.push(Linked {
                ids: vec![result.id],
                ..Linked::new(message)
            });
        }
        for mut message in entry.earlier {
            write(&marks, &mut message, at);
            self.messages.push(Linked::new(message));
        }
        if let Some(mut message) = entry.message {
            write(&marks, &mut message, at);
            self.messages.push(Linked {
                message,
                ids,
                function,
            });
        }
        at.note_rest(&fields, HARMLESS)
    }
}

/// What an entry of the list becomes.
struct Entry {
    /// Results of tools, which are messages of their own before it.
    results: Vec<content::Outcome>,
    /// Messages of the same turn before its own, where reasoning stands between texts.
    earlier: Vec<Message>,
    /// Its own message, if it has one.
    message: Option<Message>,
}

/// The ids of a message's calls, or of the call that it answers.
type Ids = Vec<Option<String>>;

/// A message of the user, a tool, the system or the developer, and the ids of the calls that it answers.
fn others(
    name: &str,
    role: &str,
    value: Option<Value>,
    fields: &mut Map<String, Value>,
    at: &KeyPath,
) -> Result<(Entry, Ids)> {
    header::read(fields, role)?;
    let calls = calls::of_message(fields, at)?;
    let is_tool = role == "tool";
    let found = match value {
        Some(value) => content::read(value, is_tool, &at.key("content"))?,
        None if fields.contains_key("content") => Content::default(),
        None => return Err(no_content(fields)),
    };
    if !calls.is_empty() || !found.calls.is_empty() {
        return Err(Error::new(format!(
            "only the assistant calls tools, found a call by `{name}`"
        )));
    }
    if found.thinking.is_some() {
        at.note(&format!("content[].thinking ({role})"), false);
    }
    let mut ids = Vec::new();
    if is_tool && let Some(id) = take_id(fields, "tool_call_id") {
        ids.push(Some(id));
    }
    let message = match found.value {
        Value::Null if !found.results.is_empty() => None,
        Value::Null if !is_tool => return Err("`content` is null".into()),
        value => Some(Message {
            role: role.to_owned(),
            content: value,
            ..Message::default()
        }),
    };
    if !found.earlier.is_empty() {
        return Err(Error::new(format!(
            "reasoning between texts of `{role}`, and only the assistant reasons; leave it out"
        )));
    }
    let entry = Entry {
        results: found.results,
        earlier: Vec::new(),
        message,
    };
    Ok((entry, ids))
}

/// A message of the assistant, and the ids of its calls.
fn assistant(
    name: &str,
    value: Option<Value>,
    fields: &mut Map<String, Value>,
    at: &KeyPath,
) -> Result<(Entry, Ids)> {
    let mut header = header::read(fields, "assistant")?;
    let mut calls = calls::of_message(fields, at)?;
    let mut thinking = reasoning::of_message(fields, at)?;
    let refusal = take_text(fields, "refusal").filter(|text| !text.is_empty());
    let mut found = match value {
        Some(value) if is_call(name) => {
            calls.push(calls::read_content(value, &at.key("content"))?);
            Content::default()
        }
        Some(value) => content::read(value, false, &at.key("content"))?,
        None if !calls.is_empty() || thinking.is_some() || refusal.is_some() => Content::default(),
        None if fields.contains_key("content") => Content::default(),
        None => return Err(no_content(fields)),
    };
    calls.append(&mut found.calls);
    if let Some(text) = found.thinking {
        add_reasoning(&mut thinking, text)?;
    }
    match (refusal, &found.value) {
        (None, _) => {}
        (Some(refusal), Value::Null) => found.value = refusal.into(),
        (Some(refusal), Value::String(text)) if text.is_empty() => found.value = refusal.into(),
        _ => {
            return Err(
                "both `content` and `refusal` hold an answer; leave one of them out".into(),
            );
        }
    }
    if let Header::Call(function) = &header {
        calls.push(calls::by_recipient(
            function,
            std::mem::take(&mut found.value),
        )?);
    }
    if header == Header::Analysis
        && let Value::String(text) = std::mem::take(&mut found.value)
    {
        add_reasoning(&mut thinking, text)?;
    }
    if found.value.is_null() {
        header = Header::Plain;
        let says_nothing = calls.is_empty() && thinking.as_ref().is_none_or(String::is_empty);
        if says_nothing && found.results.is_empty() {
            return Err("`content` is null".into());
        }
    }
    let ids = calls.iter().map(|call| call.id.clone()).collect();
    let message = Message {
        role: "assistant".to_owned(),
        content: found.value,
        channel: match header {
            Header::Text(channel) => Some(channel),
            _ => None,
        },
        thinking,
        tool_calls: calls.into_iter().map(|call| call.call).collect(),
        ..Message::default()
    };
    let is_empty = message.content.is_null() && message.tool_calls.is_empty();
    let earlier = found.earlier.into_iter().map(|earlier| Message {
        thinking: earlier.thinking,
        ..Message::new("assistant", earlier.text)
    });
    let entry = Entry {
        earlier: earlier.collect(),
        message: (!is_empty || message.thinking.is_some()).then_some(message),
        results: found.results,
    };
    Ok((entry, ids))
}

/// Adds the reasoning of the content to that of the message's keys.
fn add_reasoning(thinking: &mut Option<String>, text: String) -> Result<()> {
    match thinking {
        Some(known) if known.trim() == text.trim() => {}
        Some(known) if !known.trim().is_empty() => {
            return Err(
                "reasoning in the content, and other reasoning in a key; leave one of them out"
                    .into(),
            );
        }
        _ => *thinking = Some(text),
    }
    Ok(())
}

fn no_content(fields: &Map<String, Value>) -> Error {
    Error::new(format!(
        "no `content` (or `value`); its keys are {}",
        columns(fields)
    ))
}

/// Writes marks into a message, and notes one that cannot be obeyed.
pub fn write(marks: &Marks, message: &mut Message, at: &KeyPath) {
    if let Some(mark) = marks.write(message) {
        at.note(&format!("{mark} ({})", message.role), false);
    }
}

fn is_call(name: &str) -> bool {
    matches!(plain(name).as_str(), "tool_call" | "function_call")
}

/// The name with underscores for dashes.
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
