//! A dataset format: rows of a question and an answer, `{"ask": "..", "reply": ".."}`, become
//! conversations.

use apus_sdk::serde_json::Value;
use apus_sdk::{Conversation, DatasetFormat, Error, Message, Result, Row, Sample};

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct AskReply {
        /// Instructions before every question; empty for none.
        system: String = String::new(),
    }
}

apus_sdk::register! {
    /// A question in `ask` and its answer in `reply`.
    DatasetFormat, "{{component}}", AskReply
}

impl DatasetFormat for AskReply {
    fn recognises(&self, columns: &[&str]) -> bool {
        columns.contains(&"ask") && columns.contains(&"reply")
    }

    /// Above the formats that come with Apus, which end at 40.
    fn rank(&self) -> i32 {
        100
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        let mut messages = Vec::new();
        if !self.system.is_empty() {
            messages.push(Message::new("system", self.system.as_str()));
        }
        messages.push(Message::new("user", text(&row, "ask")?));
        messages.push(Message::new("assistant", text(&row, "reply")?));
        Ok(vec![Conversation::new(messages).into()])
    }
}

fn text<'a>(row: &'a Row, column: &str) -> Result<&'a str> {
    match row.get(column) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(Error::new(format!("`{column}` is {other}, not text"))),
        None => Err(Error::new(format!("there is no column `{column}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::serde_json::json;
    use apus_sdk::testing::{convert, make};

    #[test]
    fn two_columns_become_a_conversation() {
        let options = json!({"system": "Be brief."});
        let format = make::<dyn DatasetFormat>("{{component}}", options).unwrap();
        assert!(format.recognises(&["id", "ask", "reply"]));
        assert!(!format.recognises(&["ask", "answer"]));
        let found = convert(format.as_ref(), json!({"ask": "1 + 1?", "reply": "2"})).unwrap();
        let expected = Conversation {
            messages: vec![
                Message::new("system", "Be brief."),
                Message::new("user", "1 + 1?"),
                Message::new("assistant", "2"),
            ],
            ..Conversation::default()
        };
        assert_eq!(found, [Sample::Conversation(expected)]);
    }

    #[test]
    fn a_bad_row_is_explained() {
        let row = json!({"ask": "1 + 1?", "reply": 2});
        let error = convert(&AskReply::default(), row).unwrap_err();
        assert_eq!(error.to_string(), "`reply` is 2, not text");
    }
}
