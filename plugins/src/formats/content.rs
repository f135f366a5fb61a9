//! The content of a message: text, a list of typed blocks (OpenAI's, Anthropic's), or the result of
//! a tool.

use super::{
    calls,
    keys::{KeyPath, take, take_id, take_if, take_text},
    row::{entries, kind},
};
use apus_sdk::{Error, Result, ToolCall};
use serde_json::Value;

/// Keys of a block that only an API needs, and those that describe its text.
const HARMLESS: &[&str] = &["id", "index", "signature", "cache_control", "annotations"];

/// The content of a message, by parts.
#[derive(Debug, Default, PartialEq)]
pub struct Content {
    /// The content; `Null` where there is none.
    pub value: Value,
    /// The reasoning of `thinking` blocks.
    pub thinking: Option<String>,
    /// Texts with their reasoning that stand before that reasoning, in order.
    pub earlier: Vec<Earlier>,
    /// The calls of `tool_use` blocks.
    pub calls: Vec<calls::Call>,
    /// The results of `tool_result` blocks, which are messages of their own before this one.
    pub results: Vec<Outcome>,
}

/// A text with the reasoning before it, where more reasoning comes after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Earlier {
    /// The reasoning, if there is some.
    pub thinking: Option<String>,
    /// The text.
    pub text: String,
}

/// The result of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The call that it answers, if the dataset says so.
    pub id: Option<String>,
    /// The result.
    pub value: Value,
}

/// Reads content: text stays as it is, blocks of text are joined, a tool's result may be any JSON.
///
/// # Errors
/// A block that is not text, or a value that is neither text nor blocks where text is needed.
pub fn read(value: Value, is_tool: bool, at: &KeyPath) -> Result<Content> {
    let value = match value {
        Value::Array(blocks) if !is_tool => Value::Array(entries(blocks)?),
        value => value,
    };
    match value {
        Value::Array(blocks)
            if !blocks.is_empty() && blocks.iter().all(|b| is_block(b, is_tool)) =>
        {
            join(blocks, at)
        }
        Value::Null | Value::String(_) => Ok(plain(value)),
        value if is_tool => Ok(plain(value)),
        other => Err(Error::new(format!(
            "content must be text, found {}",
            kind(&other)
        ))),
    }
}

fn plain(value: Value) -> Content {
    Content {
        value,
        ..Content::default()
    }
}

/// A tool may give back a list of objects that have a `type` of their own; only texts are blocks there.
fn is_block(value: &Value, is_tool: bool) -> bool {
    let name = value.get("type").and_then(Value::as_str);
    name.is_some_and(|name| !is_tool || name == "text")
}

fn join(blocks: Vec<Value>, at: &KeyPath) -> Result<Content> {
    let mut found = Content::default();
    let mut text = None::<String>;
    for (i, block) in blocks.into_iter().enumerate() {
        let at = at.item(i);
        let Value::Object(mut fields) = block else {
            continue;
        };
        let name = take_text(&mut fields, "type").unwrap_or_default();
        let mut field = |key: &str| {
            take_text(&mut fields, key).ok_or_else(|| {
                Error::new(format!("a content block of type `{name}` has no `{key}`"))
            })
        };
        match name.as_str() {
            "text" | "input_text" | "output_text" => {
                text.get_or_insert_default().push_str(&field("text")?);
            }
            "refusal" => text.get_or_insert_default().push_str(&field("refusal")?),
            "thinking" => {
                let more = field("thinking")?;
                if let Some(text) = text.take_if(|text| !text.is_empty()) {
                    let thinking = found.thinking.take();
                    found.earlier.push(Earlier { thinking, text });
                }
                match &mut found.thinking {
                    Some(thinking) if !thinking.is_empty() => {
                        thinking.push('\n');
                        thinking.push_str(&more);
                    }
                    thinking => *thinking = Some(more),
                }
            }
            "tool_use" => found.calls.push(calls::Call {
                call: ToolCall {
                    name: field("name")?,
                    arguments: calls::arguments(take(&mut fields, &["input"]))?,
                },
                id: take_id(&mut fields, "id"),
            }),
            "tool_result" => {
                let content = take(&mut fields, &["content"]).unwrap_or_default();
                take_if(&mut fields, "is_error", |error| {
                    *error == Value::Bool(false)
                });
                found.results.push(Outcome {
                    id: take_id(&mut fields, "tool_use_id"),
                    value: read(content, true, &at.key("content"))?.value,
                });
            }
            other => {
                return Err(Error::new(format!(
                    "a content block has type `{other}`; only `text`, `thinking`, `tool_use` and \
                     `tool_result` can be trained"
                )));
            }
        }
        at.note_rest(&fields, HARMLESS)?;
    }
    let alone = found.calls.is_empty() && found.results.is_empty() && found.earlier.is_empty();
    found.value = match text {
        None if !alone => Value::Null,
        text => Value::String(text.unwrap_or_default()),
    };
    Ok(found)
}
