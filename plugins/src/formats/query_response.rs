//! One question and one answer a row, under any of their usual names (ms-swift's
//! `ResponsePreprocessor`), with earlier rounds in `history`.

use super::row::{columns, conversation, first, kind, text};
use apus_sdk::{DatasetFormat, Error, Message, Result, Row, Sample, register};
use serde::Deserialize;
use serde_json::Value;

const QUERY: [&str; 6] = [
    "query",
    "prompt",
    "input",
    "instruction",
    "question",
    "problem",
];
const RESPONSE: [&str; 11] = [
    "response",
    "answer",
    "output",
    "targets",
    "target",
    "answer_key",
    "answers",
    "solution",
    "text",
    "completion",
    "content",
];

#[derive(Deserialize)]
struct QueryResponse;

impl DatasetFormat for QueryResponse {
    fn recognises(&self, columns: &[&str]) -> bool {
        RESPONSE.iter().any(|name| columns.contains(name))
            || QUERY.iter().any(|name| columns.contains(name))
    }

    fn rank(&self) -> i32 {
        -10
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        let query = text(&row, &QUERY)?;
        rounds(&row, query, response(&row)?)
    }
}

/// The answer: text, or the first of a list of answers.
fn response(row: &Row) -> Result<Option<String>> {
    let Some((name, value)) = first(row, &RESPONSE) else {
        return Ok(None);
    };
    match value {
        Value::String(text) => Ok(Some(text.clone())),
        Value::Array(answers) => match answers.first() {
            Some(Value::String(text)) => Ok(Some(text.clone())),
            _ => Err(Error::new(format!(
                "column `{name}` is a list whose first entry is not text"
            ))),
        },
        other => Err(Error::new(format!(
            "column `{name}` must be text, found {}",
            kind(other)
        ))),
    }
}

/// The conversation of a row's `history`, then `query`, then `response`; either may be missing.
///
/// # Errors
/// A history that is not a list of pairs; nothing at all in the row.
pub fn rounds(row: &Row, query: Option<String>, response: Option<String>) -> Result<Vec<Sample>> {
    let mut messages = Vec::new();
    for (user, assistant) in history(row)? {
        messages.extend(user.map(|text| Message::new("user", text)));
        messages.extend(assistant.map(|text| Message::new("assistant", text)));
    }
    messages.extend(query.map(|text| Message::new("user", text)));
    messages.extend(response.map(|text| Message::new("assistant", text)));
    if messages.is_empty() {
        return Err(Error::new(format!(
            "neither a question nor an answer in columns {}",
            columns(row)
        )));
    }
    conversation(row, messages)
}

type Round = (Option<String>, Option<String>);

fn history(row: &Row) -> Result<Vec<Round>> {
    let value = row.get("history").unwrap_or(&Value::Null);
    let items = super::row::list("history", value)?;
    let round = |(i, item): (usize, Value)| match item {
        Value::Array(pair) => match <[Value; 2]>::try_from(pair) {
            Ok([user, assistant]) => Ok((side(i, user)?, side(i, assistant)?)),
            Err(pair) => Err(Error::new(format!(
                "entry {} of `history` must be [question, answer], found {} entries",
                i + 1,
                pair.len()
            ))),
        },
        other => Err(Error::new(format!(
            "entry {} of `history` must be [question, answer], found {}",
            i + 1,
            kind(&other)
        ))),
    };
    items.into_iter().enumerate().map(round).collect()
}

fn side(i: usize, value: Value) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        other => Err(Error::new(format!(
            "entry {} of `history` must hold text, found {}",
            i + 1,
            kind(&other)
        ))),
    }
}

register! {
    /// One question and one answer a row (query, prompt, question ... and response, answer, output ...).
    DatasetFormat, "query_response", QueryResponse
}

#[cfg(test)]
mod tests {
    use super::super::row::tests::{convert, turns};
    use super::*;
    use serde_json::json;

    #[test]
    fn aliases_and_lists_of_answers() {
        let found = convert(
            &QueryResponse,
            json!({"question": "q", "answers": ["a", "b"], "system_prompt": "s"}),
        )
        .unwrap();
        let expected = [("system", "s"), ("user", "q"), ("assistant", "a")];
        assert_eq!(turns(&found), expected);
    }

    #[test]
    fn a_plain_text_column_is_an_answer() {
        let found = convert(&QueryResponse, json!({"text": "t"})).unwrap();
        assert_eq!(turns(&found), [("assistant", "t")]);
    }

    #[test]
    fn a_row_with_nothing_in_it_names_its_columns() {
        let bad = convert(&QueryResponse, json!({"query": null, "id": 1})).unwrap_err();
        assert!(bad.to_string().contains("`query`, `id`"), "{bad}");
    }
}
