//! A dataset format for files whose columns nobody else knows: question and answer under any name.
//!
//! Rows of a `.csv` file arrive as JSON objects of texts; Apus reads the file itself.

use apus_sdk::{Conversation, DatasetFormat, Error, Message, Result, Row, Sample};
use serde_json::Value;

apus_sdk::export_plugin!();

apus_sdk::options! {
    struct CsvColumns {
        /// Column of the question.
        question: String = "ask".to_owned(),
        /// Column of the answer; rows where it is empty are dropped.
        answer: String = "reply".to_owned(),
        /// Column of the system prompt.
        system: Option<String> = None,
    }
}

apus_sdk::register! {
    /// A question and an answer a row, in columns that options name.
    DatasetFormat, "csv_columns", CsvColumns
}

impl DatasetFormat for CsvColumns {
    fn recognises(&self, columns: &[&str]) -> bool {
        [&self.question, &self.answer]
            .iter()
            .all(|name| columns.contains(&name.as_str()))
    }

    /// Above the formats that come with Apus, which end at 40.
    fn rank(&self) -> i32 {
        100
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        let text = |column: &String| match row.get(column) {
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(other) => Err(Error::new(format!(
                "column `{column}` must be text, found {other}"
            ))),
            None => Err(Error::new(format!("there is no column `{column}`"))),
        };
        let answer = text(&self.answer)?;
        if answer.is_empty() {
            return Ok(Vec::new());
        }
        let mut messages = Vec::new();
        if let Some(column) = &self.system {
            messages.push(Message::new("system", text(column)?));
        }
        messages.push(Message::new("user", text(&self.question)?));
        messages.push(Message::new("assistant", answer));
        Ok(vec![Conversation::new(messages).into()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::testing::{convert, make};
    use serde_json::json;

    /// Role and text of each message that a row becomes.
    fn turns(options: Value, row: Value) -> Result<Vec<(String, String)>> {
        let format = make::<dyn DatasetFormat>("csv_columns", options)?;
        let turn = |m: &Message| (m.role.clone(), m.text().unwrap_or_default().to_owned());
        let samples = convert(&*format, row)?;
        let turns = samples.iter().flat_map(|sample| match sample {
            Sample::Conversation(conversation) => conversation.messages.iter().map(turn),
            Sample::Tokens(_) => panic!("a conversation is expected"),
        });
        Ok(turns.collect())
    }

    fn owned<const N: usize>(turns: [(&str, &str); N]) -> [(String, String); N] {
        turns.map(|(role, text)| (role.to_owned(), text.to_owned()))
    }

    #[test]
    fn columns_become_turns() {
        let found = turns(json!({}), json!({"ask": "q", "reply": "a", "id": "1"})).unwrap();
        assert_eq!(found, owned([("user", "q"), ("assistant", "a")]));
        let options = json!({"question": "F", "answer": "A", "system": "S"});
        let found = turns(options, json!({"F": "q", "A": "a", "S": "s"})).unwrap();
        let expected = owned([("system", "s"), ("user", "q"), ("assistant", "a")]);
        assert_eq!(found, expected);
    }

    #[test]
    fn rows_without_an_answer_are_dropped_and_bad_ones_name_the_column() {
        let dropped = turns(json!({}), json!({"ask": "q", "reply": ""})).unwrap();
        assert_eq!(dropped, []);
        let bad = turns(json!({"system": "s"}), json!({"ask": "q", "reply": "a"})).unwrap_err();
        assert_eq!(bad.to_string(), "there is no column `s`");
        let bad = turns(json!({}), json!({"ask": 3, "reply": "a"})).unwrap_err();
        assert_eq!(bad.to_string(), "column `ask` must be text, found 3");
    }

    #[test]
    fn both_columns_are_needed() {
        assert!(CsvColumns::default().recognises(&["id", "reply", "ask"]));
        assert!(!CsvColumns::default().recognises(&["ask", "response"]));
    }
}
