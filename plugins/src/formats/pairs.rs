//! ShareGPT's older form, one entry a round: `[{"human": "..", "assistant": ".."}, ..]`.

use super::row::{columns, first, kind};
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

/// Reads the rounds.
///
/// # Errors
/// A round without one of its two texts, by its number (from 1).
pub fn read_all(items: &[Value]) -> Result<Vec<Message>> {
    let mut messages = Vec::with_capacity(2 * items.len());
    for (i, item) in items.iter().enumerate() {
        let Value::Object(fields) = item else {
            return Err(Error::new(format!(
                "pair {} must be an object, found {}",
                i + 1,
                kind(item)
            )));
        };
        for (role, names) in [("user", &USER[..]), ("assistant", &ASSISTANT[..])] {
            match first(fields, names) {
                Some((_, Value::String(text))) => messages.push(Message::new(role, text.as_str())),
                _ => {
                    return Err(Error::new(format!(
                        "pair {} needs text under `human` (or `user`) and `assistant` (or `gpt`, \
                         `bot`), found {}",
                        i + 1,
                        columns(fields)
                    )));
                }
            }
        }
    }
    Ok(messages)
}
