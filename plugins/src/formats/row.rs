//! What the formats share: columns of a row that mean the same in each of them.

use super::{
    keys::{At, take, take_if},
    message::Talk,
};
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

/// Takes the first of these columns that is there and not null, with its name.
pub fn first(row: &mut Row, names: &[&'static str]) -> Option<(&'static str, Value)> {
    let name = names
        .iter()
        .find(|name| row.get(**name).is_some_and(|value| !value.is_null()))?;
    Some((name, row.get_mut(*name)?.take()))
}

/// Takes the column that holds what `names[0]` means: that name itself, else with `auto` any of its names,
/// in any case; of several others none is better than the rest.
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

/// A list, or the text of one (JSON or Python), as some files store nested columns.
///
/// # Errors
/// Text that is neither, or anything that is not a list.
pub fn list(name: &str, value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => Ok(items),
        Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
        Value::String(text) => match super::literal::read(&text) {
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
            kind(&other)
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

/// Finishes a conversation with the columns that every format may carry: `system` or `developer`, `channel`,
/// and those of its [setting](super::setting).
///
/// # Errors
/// A column of the wrong type, two that say different things, or media.
pub fn conversation(row: &mut Row, talk: Talk, auto: bool, at: &At) -> Result<Vec<Sample>> {
    refuse_media(row)?;
    let Talk {
        mut messages,
        setting,
    } = talk;
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

/// A tool definition in OpenAI's form; a bare function is wrapped.
///
/// # Errors
/// Anything else.
pub fn tool(value: Value, at: &At) -> Result<Value> {
    let wrong = |found: &Value| {
        Error::new(format!(
            "an entry of `tools` must be {{\"type\": \"function\", \"function\": {{\"name\": ..}}}}, \
             found {found}"
        ))
    };
    let Value::Object(mut fields) = value else {
        return Err(wrong(&value));
    };
    take_if(&mut fields, "type", |kind| kind == "function");
    let function = match take(&mut fields, &["function"]) {
        Some(Value::Object(mut inner)) => {
            let function = function(&mut inner, &at.key("function"));
            at.leave(&fields, &[])?;
            function?
        }
        Some(other) => return Err(wrong(&other)),
        None if fields.contains_key("name") => function(&mut fields, at)?,
        None => return Err(wrong(&Value::Object(fields))),
    };
    Ok(json!({"type": "function", "function": function}))
}

/// What chat templates write of a function; Anthropic's API has another name for its parameters.
fn function(fields: &mut Map<String, Value>, at: &At) -> Result<Map<String, Value>> {
    let names = [
        &["name"][..],
        &["description"],
        &["parameters", "input_schema"],
    ];
    let found = names.map(|names| Some((names[0].to_owned(), take(fields, names)?)));
    at.leave(fields, &["strict"])?;
    Ok(found.into_iter().flatten().collect())
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
