//! Columns that mean the same in each of the formats.

use super::{keys::KeyPath, message::MessageList};
use apus_sdk::{Conversation, Error, Message, Result, Row, Sample, json};
use serde_json::{Map, Value};

/// A row from its JSON text.
///
/// # Errors
/// Text that is no JSON object, or has a key twice in one object.
pub fn read(text: &str) -> Result<Row> {
    match json::read(text)? {
        Value::Object(row) => Ok(row),
        other => Err(Error::new(format!(
            "a row must be an object, found {}",
            kind(&other)
        ))),
    }
}

/// The names of a row's columns, for messages.
pub fn columns(row: &Map<String, Value>) -> String {
    let names: Vec<_> = row.keys().map(|key| format!("`{key}`")).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// The type of a JSON value, for messages.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) if json::digits(value).is_some() => "a number",
        Value::Object(_) => "an object",
    }
}

/// Takes the column that holds what `names[0]` means: that name itself, else with `auto` any of its names,
/// in any case; several of the other names are an error.
///
/// # Errors
/// Several columns that could be meant.
pub fn pick(row: &mut Row, names: &[&str], auto: bool) -> Result<Option<(String, Value)>> {
    let own = *names.first().unwrap_or(&"");
    let is_own = row.get(own).is_some_and(|value| !value.is_null());
    let meant = |name: &str| match auto && !is_own {
        true => names.iter().any(|known| known.eq_ignore_ascii_case(name)),
        false => name == own,
    };
    let mut found = row
        .iter_mut()
        .filter(|(name, value)| !value.is_null() && meant(name));
    let Some((name, value)) = found.next() else {
        return Ok(None);
    };
    match found.next() {
        None => Ok(Some((name.clone(), value.take()))),
        Some((other, _)) => Err(Error::new(format!(
            "columns `{name}` and `{other}` could both be the `{own}`; rename the one that is meant to \
             `{own}` (with --columns)"
        ))),
    }
}

/// Takes the text of the column that [`pick`] finds.
///
/// # Errors
/// A value that is not text, or several columns that could be meant.
pub fn text(row: &mut Row, names: &[&str], auto: bool) -> Result<Option<String>> {
    match pick(row, names, auto)? {
        None => Ok(None),
        Some((_, Value::String(text))) => Ok(Some(text)),
        Some((name, other)) => Err(Error::new(format!(
            "column `{name}` must be text, found {}",
            kind(&other)
        ))),
    }
}

/// A list, or the text of one (JSON or Python), as some files store nested columns; entries that are the text of
/// an object or a list are read too, which is how Hugging Face's datasets stores what has no one type.
///
/// # Errors
/// Text that is neither, or anything that is not a list.
pub fn list(name: &str, value: Value) -> Result<Vec<Value>> {
    let items = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(items) => items,
        Value::String(text) if text.trim().is_empty() => return Ok(Vec::new()),
        Value::String(text) => match super::literal::read(&text) {
            Ok(Value::Array(items)) => items,
            Ok(other) => {
                return Err(Error::new(format!(
                    "column `{name}` must be a list, found the text of {}",
                    kind(&other)
                )));
            }
            Err(error) => {
                return Err(Error::new(format!(
                    "column `{name}` must be a list, found text that is neither JSON's nor Python's: {error}"
                )));
            }
        },
        other => {
            return Err(Error::new(format!(
                "column `{name}` must be a list, found {}",
                kind(&other)
            )));
        }
    };
    entries(items).map_err(|error| Error::new(format!("column `{name}`: {error}")))
}

/// The entries of a list, those that are the text of an object or a list read.
///
/// # Errors
/// Text that begins as one and is not one, with its number.
pub fn entries(mut items: Vec<Value>) -> Result<Vec<Value>> {
    for (i, item) in items.iter_mut().enumerate() {
        let Value::String(text) = &item else {
            continue;
        };
        if text.trim_start().starts_with(['{', '[']) {
            *item = super::literal::read(text).map_err(|error| {
                Error::new(format!(
                    "entry {} is text that begins as JSON and is none: {error}",
                    i + 1
                ))
            })?;
        }
    }
    Ok(items)
}

const MEDIA: [&str; 3] = ["images", "videos", "audios"];

/// Media would be left out in silence, although the text refers to them.
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

/// Finishes a conversation with the columns that every format may carry: `system` or `developer`, `channel`,
/// and those of its [setting](super::setting).
///
/// # Errors
/// A column of the wrong type, two that say different things, or media.
pub fn conversation(
    row: &mut Row,
    list: MessageList,
    auto: bool,
    at: &KeyPath,
) -> Result<Vec<Sample>> {
    refuse_media(row)?;
    let MessageList {
        mut messages,
        setting,
    } = list;
    let has_system = messages
        .first()
        .is_some_and(|m| m.role == "system" || m.role == "developer");
    if !has_system && let Some(instructions) = instructions(row, auto)? {
        messages.insert(0, instructions);
    }
    let (tools, template_kwargs) = setting.with_columns(row, auto, at)?;
    Ok(vec![Sample::Conversation(Conversation {
        messages,
        tools,
        template_kwargs,
        channel: text(row, &["channel"], auto)?,
    })])
}

/// The message of a column with instructions. Harmony has one place for those of the system and those of
/// the developer.
fn instructions(row: &mut Row, auto: bool) -> Result<Option<Message>> {
    let system = text(row, &["system", "system_prompt"], auto)?.filter(|text| !text.is_empty());
    let developer = text(row, &["developer"], auto)?.filter(|text| !text.is_empty());
    match (system, developer) {
        (Some(system), Some(developer)) if system != developer => Err(Error::new(
            "columns `system` and `developer` hold different instructions, and harmony has one place for \
             both; join them, or leave one out",
        )),
        (_, Some(developer)) => Ok(Some(Message::new("developer", developer))),
        (system, _) => Ok(system.map(|system| Message::new("system", system))),
    }
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
