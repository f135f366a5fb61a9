//! ShareGPT's pairs: `{"conversation": [{"human": "..", "assistant": ".."}, ..]}`.
//!
//! The other form, `{"conversations": [{"from": "human", "value": ".."}, ..]}`, is one of
//! `messages` too and read the same way.

use super::{
    message,
    row::{columns, conversation, first, kind, list},
};
use apus_sdk::{DatasetFormat, Error, Message, Result, Row, Sample, register};
use serde::Deserialize;
use serde_json::Value;

const COLUMNS: [&str; 3] = ["conversations", "conversation", "messages"];
const USER: [&str; 2] = ["human", "user"];
const ASSISTANT: [&str; 3] = ["assistant", "gpt", "bot"];

#[derive(Deserialize)]
struct ShareGpt;

impl DatasetFormat for ShareGpt {
    fn recognises(&self, columns: &[&str]) -> bool {
        columns.contains(&"conversations") || columns.contains(&"conversation")
    }

    fn rank(&self) -> i32 {
        30
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        let Some((name, value)) = first(&row, &COLUMNS) else {
            return Err(Error::new(format!(
                "no column `conversations` (or `conversation`), found {}",
                columns(&row)
            )));
        };
        let items = list(name, value)?;
        let is_pair = |item: &Value| item.get("role").or(item.get("from")).is_none();
        let messages = if items.first().is_some_and(is_pair) {
            pairs(&items)
        } else {
            message::read_all(items)
        };
        let in_column = |error| Error::new(format!("column `{name}`: {error}"));
        conversation(&row, messages.map_err(in_column)?)
    }
}

fn pairs(items: &[Value]) -> Result<Vec<Message>> {
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

register! {
    /// ShareGPT: conversations of from and value, or of human and assistant pairs.
    DatasetFormat, "sharegpt", ShareGpt
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::{convert, turns};
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_are_read() {
        let rows = [
            json!({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}),
            json!({"conversation": [{"human": "a", "assistant": "b"}]}),
        ];
        for row in rows {
            let found = convert(&ShareGpt, row).unwrap();
            assert_eq!(turns(&found), [("user", "a"), ("assistant", "b")]);
        }
    }

    #[test]
    fn a_pair_without_an_answer_is_named() {
        let bad = convert(&ShareGpt, json!({"conversation": [{"human": "a"}]})).unwrap_err();
        assert!(bad.to_string().contains("pair 1 needs text"), "{bad}");
    }
}
