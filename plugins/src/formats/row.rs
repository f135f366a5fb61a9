//! What the formats share: columns of a row that mean the same in each of them.

use apus_sdk::{Conversation, Error, Message, Result, Row, Sample};
use serde_json::{Map, Value, json};

/// The names of a row's columns, for messages.
pub fn columns(row: &Map<String, Value>) -> String {
    let names: Vec<_> = row.keys().map(|key| format!("`{key}`")).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// What kind of JSON value this is, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The first of these columns that is there and not null, with its name.
pub fn first<'a>(row: &'a Row, names: &[&'static str]) -> Option<(&'static str, &'a Value)> {
    let found = |name: &'static str| Some((name, row.get(name)?));
    let mut all = names.iter().filter_map(|name| found(name));
    all.find(|(_, value)| !value.is_null())
}

/// The column that holds what `names[0]` means: that name itself, else with `auto` any of its names, in
/// any case; of several others none is better than the rest.
///
/// # Errors
/// Several columns that could be meant.
pub fn pick<'a>(row: &'a Row, names: &[&str], auto: bool) -> Result<Option<(&'a str, &'a Value)>> {
    let exact = names.first().and_then(|name| row.get_key_value(*name));
    let meant = |name: &str| names.iter().any(|known| known.eq_ignore_ascii_case(name));
    if let Some((name, value)) = exact.filter(|(_, value)| !value.is_null()) {
        return Ok(Some((name, value)));
    }
    if !auto {
        return Ok(None);
    }
    let mut found = row
        .iter()
        .filter(|(name, value)| !value.is_null() && meant(name))
        .map(|(name, value)| (name.as_str(), value));
    let Some(one) = found.next() else {
        return Ok(None);
    };
    match found.next() {
        None => Ok(Some(one)),
        Some((other, _)) => Err(Error::new(format!(
            "columns `{}` and `{other}` could both be the `{}`; rename the one that is meant to `{}` \
             (with --columns)",
            one.0,
            names.first().unwrap_or(&""),
            names.first().unwrap_or(&"")
        ))),
    }
}

/// The text of the column that [`pick`] finds.
///
/// # Errors
/// A value that is not text, or several columns that could be meant.
pub fn text(row: &Row, names: &[&str], auto: bool) -> Result<Option<String>> {
    match pick(row, names, auto)? {
        None => Ok(None),
        Some((_, Value::String(text))) => Ok(Some(text.clone())),
        Some((name, other)) => Err(Error::new(format!(
            "column `{name}` must be text, found {}",
            kind(other)
        ))),
    }
}

/// A list, or the text of one (JSON or Python), as some files store nested columns.
///
/// # Errors
/// Text that is neither, or anything that is not a list.
pub fn list(name: &str, value: &Value) -> Result<Vec<Value>> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => Ok(items.clone()),
        Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
        Value::String(text) => match super::literal::read(text) {
            Ok(Value::Array(items)) => Ok(items),
            Ok(other) => Err(Error::new(format!(
                "column `{name}` must be a list, found the text of {}",
                kind(&other)
            ))),
            Err(error) => Err(Error::new(format!(
                "column `{name}` must be a list, found text that is neither JSON's nor Python's: {error}"
            ))),
        },
        other => Err(Error::new(format!(
            "column `{name}` must be a list, found {}",
            kind(other)
        ))),
    }
}

const MEDIA: [&str; 3] = ["images", "videos", "audios"];

/// Media would be left out in silence, and the text speaks of them.
fn refuse_media(row: &Row) -> Result<()> {
    let filled = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty() && text != "[]",
        _ => true,
    };
    match MEDIA
        .iter()
        .find(|name| row.get(**name).is_some_and(filled))
    {
        None => Ok(()),
        Some(name) => Err(Error::new(format!(
            "column `{name}` is not empty, but only text can be trained"
        ))),
    }
}

/// Finishes a conversation with the columns that every format may carry: `system`, `tools`,
/// `channel`, `chat_template_kwargs`.
///
/// # Errors
/// A column of the wrong type, or media.
pub fn conversation(row: &Row, mut messages: Vec<Message>, auto: bool) -> Result<Vec<Sample>> {
    refuse_media(row)?;
    let has_system = messages
        .first()
        .is_some_and(|m| m.role == "system" || m.role == "developer");
    let system = text(row, &["system", "system_prompt"], auto)?;
    if let Some(system) = system.filter(|system| !system.is_empty() && !has_system) {
        messages.insert(0, Message::new("system", system));
    }
    let template_kwargs = match row.get("chat_template_kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(kwargs)) => kwargs.clone(),
        Some(other) => {
            return Err(Error::new(format!(
                "column `chat_template_kwargs` must be an object, found {}",
                kind(other)
            )));
        }
    };
    Ok(vec![Sample::Conversation(Conversation {
        messages,
        tools: tools(row)?,
        template_kwargs,
        channel: text(row, &["channel"], auto)?,
    })])
}

/// Tool definitions in OpenAI's form; a bare function is wrapped.
fn tools(row: &Row) -> Result<Vec<Value>> {
    let wrap = |tool: Value| match tool {
        Value::Object(ref fields) if fields.contains_key("function") => Ok(tool),
        Value::Object(fields) if fields.contains_key("name") => {
            Ok(json!({"type": "function", "function": fields}))
        }
        other => Err(Error::new(format!(
            "an entry of `tools` must be {{\"type\": \"function\", \"function\": {{\"name\": ..}}}}, \
             found {other}"
        ))),
    };
    let tools = row.get("tools").unwrap_or(&Value::Null);
    list("tools", tools)?.into_iter().map(wrap).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use apus_sdk::DatasetFormat;

    /// The one conversation that a format makes of a row.
    pub fn convert(format: &dyn DatasetFormat, row: Value) -> Result<Conversation> {
        let Value::Object(row) = row else {
            panic!("a row is an object")
        };
        match format.convert(row)?.as_slice() {
            [Sample::Conversation(conversation)] => Ok(conversation.clone()),
            other => panic!("one conversation expected, found {other:?}"),
        }
    }

    /// Role and text of each message.
    pub fn turns(conversation: &Conversation) -> Vec<(&str, &str)> {
        let turn = |m| -> (&str, &str) {
            let m: &Message = m;
            (m.role.as_str(), m.text().unwrap_or("(not text)"))
        };
        conversation.messages.iter().map(turn).collect()
    }
}
