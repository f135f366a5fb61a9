//! The content of a message: text, a list of typed blocks, or the result of a tool.

use super::row::kind;
use apus_sdk::{Error, Result};
use serde_json::Value;

/// Text and reasoning found in a message's content.
#[derive(Debug, Default, PartialEq)]
pub struct Content {
    /// The content; `Null` where there is none.
    pub value: Value,
    /// The reasoning of `thinking` blocks.
    pub thinking: Option<String>,
}

/// Reads content: text stays as it is, blocks of text are joined, a tool's result may be any JSON.
///
/// # Errors
/// A block that is not text, or a value that is neither text nor blocks where text is needed.
pub fn read(value: Value, is_tool: bool) -> Result<Content> {
    match value {
        Value::Array(blocks) if blocks.iter().all(is_block) && !blocks.is_empty() => join(&blocks),
        Value::Null | Value::String(_) => Ok(Content {
            value,
            thinking: None,
        }),
        value if is_tool => Ok(Content {
            value,
            thinking: None,
        }),
        other => Err(Error::new(format!(
            "content must be text, found {}",
            kind(&other)
        ))),
    }
}

fn is_block(value: &Value) -> bool {
    value.get("type").is_some_and(Value::is_string)
}

fn join(blocks: &[Value]) -> Result<Content> {
    let mut text = String::new();
    let mut thinking = None::<String>;
    for block in blocks {
        let name = block.get("type").and_then(Value::as_str).unwrap_or("");
        let field = |key: &str| {
            block.get(key).and_then(Value::as_str).ok_or_else(|| {
                Error::new(format!("a content block of type `{name}` has no `{key}`"))
            })
        };
        match name {
            "text" => text.push_str(field("text")?),
            "thinking" => thinking
                .get_or_insert_default()
                .push_str(field("thinking")?),
            other => {
                return Err(Error::new(format!(
                    "a content block has type `{other}`; only `text` and `thinking` can be trained"
                )));
            }
        }
    }
    Ok(Content {
        value: Value::String(text),
        thinking,
    })
}
