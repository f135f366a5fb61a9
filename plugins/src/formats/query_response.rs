//! One question and one answer a row, under any of their usual names (ms-swift's
//! `ResponsePreprocessor`), with earlier rounds in `history`. A row with nothing but a `text` is
//! an answer without a question: all of it is trained.

use super::{
    keys::{KeyPath, has_value, noting, take},
    marks::{Marks, RowMarks},
    message::write,
    reasoning,
    row::{columns, conversation, kind, pick, text},
};
use apus_sdk::{Converted, DatasetFormat, Error, Message, Result, Row, Sample, options, register};
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

options! {
    pub struct QueryResponse {
        /// Whether columns may have their usual other names (prompt, answer ..), in any case.
        auto_column_mapping: bool = true,
    }
}

impl DatasetFormat for QueryResponse {
    fn recognises(&self, columns: &[&str]) -> bool {
        if !self.auto_column_mapping {
            return columns.contains(&QUERY[0]) || columns.contains(&RESPONSE[0]);
        }
        let mut names = QUERY.iter().chain(&RESPONSE);
        names.any(|name| {
            columns
                .iter()
                .any(|column| column.eq_ignore_ascii_case(name))
        })
    }

    fn rank(&self) -> i32 {
        -10
    }

    fn row(&self, text: &str) -> Result<Row> {
        super::row::read(text)
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        Ok(self.convert_noting(row)?.samples)
    }

    fn convert_noting(&self, row: Row) -> Result<Converted> {
        let auto = self.auto_column_mapping;
        noting(row, &[], |row, at| {
            let query = text(row, &QUERY, auto)?;
            let response = response(row, auto, at)?;
            rounds(row, query, response, auto, at)
        })
    }
}

/// The row's answer: text, or the first of a list of answers.
///
/// # Errors
/// Anything else, or several columns that could be meant.
pub fn response(row: &mut Row, auto: bool, at: &KeyPath) -> Result<Option<String>> {
    match pick(row, &RESPONSE, auto)? {
        None => Ok(None),
        Some((name, value)) => answer(&name, value, at).map(Some),
    }
}

/// The answer in a column: text, or the first of a list.
pub fn answer(name: &str, value: Value, at: &KeyPath) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Array(mut answers) => match answers.first_mut().map(Value::take) {
            Some(Value::String(text)) => {
                let rest = answers.iter().enumerate().skip(1);
                for (i, _) in rest.filter(|(_, answer)| has_value(answer)) {
                    at.key(name).item(i).note_all(false);
                }
                Ok(text)
            }
            _ => Err(Error::new(format!(
                "column `{name}` is a list whose first entry is not text"
            ))),
        },
        other => Err(Error::new(format!(
            "column `{name}` must be text, found {}",
            kind(&other)
        ))),
    }
}

/// The conversation of a row's `history`, then `query`, then `response`; either may be missing.
///
/// # Errors
/// A history that is not a list of pairs; nothing at all in the row.
pub fn rounds(
    row: &mut Row,
    query: Option<String>,
    response: Option<String>,
    auto: bool,
    at: &KeyPath,
) -> Result<Vec<Sample>> {
    let marks = RowMarks::take(row)?;
    let mut messages = Vec::new();
    for (user, assistant) in history(row)? {
        messages.extend(user.map(|text| Message::new("user", text)));
        messages.extend(assistant.map(|text| Message::new("assistant", text)));
    }
    messages.extend(query.map(|text| Message::new("user", text)));
    if let Some(text) = response {
        messages.push(Message {
            thinking: reasoning::of_row(row, auto, at)?,
            ..Message::new("assistant", text)
        });
    }
    if messages.is_empty() {
        return Err(Error::new(format!(
            "neither a question nor an answer in columns {}",
            columns(row)
        )));
    }
    marks.fit(messages.len(), "messages")?;
    for (i, message) in messages.iter_mut().enumerate() {
        write(&marks.of(i, Marks::default())?, message, at);
    }
    conversation(row, messages.into(), auto, at)
}

type Round = (Option<String>, Option<String>);

fn history(row: &mut Row) -> Result<Vec<Round>> {
    let value = take(row, &["history"]).unwrap_or_default();
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
    fn every_alias_is_read_in_any_case() {
        for query in QUERY {
            for response in RESPONSE {
                let upper = response.to_uppercase();
                let row = json!({query: "q", upper.as_str(): "a", "id": 1});
                assert!(
                    QueryResponse::default().recognises(&[query])
                        && QueryResponse::default().recognises(&[&upper])
                );
                let found = convert(&QueryResponse::default(), row).unwrap();
                assert_eq!(turns(&found), [("user", "q"), ("assistant", "a")]);
            }
        }
    }

    #[test]
    fn of_several_columns_the_name_itself_counts() {
        let row =
            json!({"query": "q", "prompt": "p", "response": "r", "answer": "a", "problem": null});
        let found = convert(&QueryResponse::default(), row).unwrap();
        assert_eq!(turns(&found), [("user", "q"), ("assistant", "r")]);
        let row = json!({"problem": "q", "solution": "s", "answer": "a"});
        let bad = convert(&QueryResponse::default(), row)
            .unwrap_err()
            .to_string();
        assert!(
            bad.contains("columns `solution` and `answer` could both be the `response`"),
            "{bad}"
        );
        let row = json!({"question": "q", "problem": "p", "answer": "a"});
        assert!(convert(&QueryResponse::default(), row).is_err());
    }

    #[test]
    fn without_the_mapping_only_the_names_themselves_count() {
        let strict = QueryResponse {
            auto_column_mapping: false,
        };
        assert!(strict.recognises(&["query"]) && strict.recognises(&["id", "response"]));
        assert!(!strict.recognises(&["prompt", "text", "QUERY"]));
        let row = json!({"query": "q", "response": "r", "system": "s", "text": "t", "Prompt": "p"});
        let found = convert(&strict, row).unwrap();
        let expected = [("system", "s"), ("user", "q"), ("assistant", "r")];
        assert_eq!(turns(&found), expected);
        let row = json!({"query": "q", "answer": "a", "system_prompt": "s"});
        assert_eq!(turns(&convert(&strict, row).unwrap()), [("user", "q")]);
    }

    #[test]
    fn lists_of_answers_and_a_system_message() {
        let row = json!({"question": "q", "answers": ["a", "b"], "system_prompt": "s"});
        let found = convert(&QueryResponse::default(), row).unwrap();
        let expected = [("system", "s"), ("user", "q"), ("assistant", "a")];
        assert_eq!(turns(&found), expected);
        let bad = convert(
            &QueryResponse::default(),
            json!({"question": "q", "answers": []}),
        )
        .unwrap_err();
        assert!(
            bad.to_string().contains("`answers` is a list whose first"),
            "{bad}"
        );
    }

    #[test]
    fn history_comes_first_and_may_be_text() {
        let row = |history| json!({"query": "q", "response": "r", "history": history});
        let expected = [
            ("user", "a"),
            ("assistant", "b"),
            ("user", "q"),
            ("assistant", "r"),
        ];
        for history in [
            json!([["a", "b"]]),
            json!("[('a', 'b')]"),
            json!("[[\"a\", \"b\"]]"),
        ] {
            let found = convert(&QueryResponse::default(), row(history)).unwrap();
            assert_eq!(turns(&found), expected);
        }
        for history in [json!(null), json!([]), json!("")] {
            let found = convert(&QueryResponse::default(), row(history)).unwrap();
            assert_eq!(turns(&found), expected[2..]);
        }
        let found = convert(&QueryResponse::default(), row(json!([[null, "b"]]))).unwrap();
        assert_eq!(turns(&found), expected[1..]);
        let bad = convert(&QueryResponse::default(), row(json!([["a", "b", "c"]]))).unwrap_err();
        assert!(bad.to_string().contains("found 3 entries"), "{bad}");
    }

    #[test]
    fn a_question_alone_is_kept_and_media_are_not() {
        let found = convert(
            &QueryResponse::default(),
            json!({"query": "q", "images": []}),
        )
        .unwrap();
        assert_eq!(turns(&found), [("user", "q")]);
        let row = json!({"query": "<image>q", "response": "r", "images": ["a.png"]});
        let bad = convert(&QueryResponse::default(), row)
            .unwrap_err()
            .to_string();
        assert!(bad.contains("column `images` is not empty"), "{bad}");
    }

    #[test]
    fn a_plain_text_column_is_an_answer() {
        let found = convert(&QueryResponse::default(), json!({"text": "t"})).unwrap();
        assert_eq!(turns(&found), [("assistant", "t")]);
    }

    #[test]
    fn a_row_with_nothing_in_it_names_its_columns() {
        let bad = convert(&QueryResponse::default(), json!({"query": null, "id": 1})).unwrap_err();
        assert!(bad.to_string().contains("`query`, `id`"), "{bad}");
    }
}
