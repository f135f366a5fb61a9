//! ShareGPT's older form, one entry a round: `[{"human": "..", "assistant": ".."}, ..]`.

use super::{
    keys::{KeyPath, take},
    marks::{Marks, RowMarks},
    message::write,
    reasoning,
    row::{columns, kind},
};
use apus_sdk::{Error, Message, Result};
use serde_json::Value;

const USER: [&str; 2] = ["human", "user"];
const ASSISTANT: [&str; 3] = ["assistant", "gpt", "bot"];

/// Whether an entry is a round and no message: it has one of a pair's keys, and no key of a
/// message's.
pub fn is_pair(item: &Value) -> bool {
    let any = |names: &[&str]| names.iter().any(|name| item.get(name).is_some());
    (any(&USER) || any(&ASSISTANT)) && !any(&["role", "from", "content", "value"])
}

/// Reads the rounds. The marks of a round, or of the row, apply to the round's answer.
///
/// # Errors
/// A round without one of its two texts, by its number (from 1), or a value that a mark cannot have.
pub fn read_all(items: Vec<Value>, marks: &RowMarks, at: &KeyPath) -> Result<Vec<Message>> {
    marks.fit(items.len(), "pairs")?;
    let mut messages = Vec::with_capacity(2 * items.len());
    for (i, item) in items.into_iter().enumerate() {
        let number = |error| Error::new(format!("pair {}: {error}", i + 1));
        let Value::Object(mut fields) = item else {
            return Err(Error::new(format!(
                "pair {} must be an object, found {}",
                i + 1,
                kind(&item)
            )));
        };
        let marks = Marks::take(&mut fields).and_then(|own| marks.of(i, own));
        let marks = marks.map_err(number)?;
        let at = at.item(i);
        for (role, names) in [("user", &USER[..]), ("assistant", &ASSISTANT[..])] {
            let Some(Value::String(text)) = take(&mut fields, names) else {
                return Err(Error::new(format!(
                    "pair {} needs text under `human` (or `user`) and `assistant` (or `gpt`, \
                     `bot`), found {}",
                    i + 1,
                    columns(&fields)
                )));
            };
            let mut message = Message::new(role, text);
            if role == "assistant" {
                message.thinking = reasoning::of_message(&mut fields, &at).map_err(number)?;
                write(&marks, &mut message, &at);
            }
            messages.push(message);
        }
        at.note_rest(&fields, &["id"]).map_err(number)?;
    }
    Ok(messages)
}
