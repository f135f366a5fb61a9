//! Finds what is empty in a dataset: answers without text, and cells of tables without text.
//!
//! Most of them come from a failed export or an answer that never came, and a model that is trained on them learns to
//! say nothing. A table cannot tell an empty text from a missing one, so its empty cells are texts and are counted.

use super::file::{Record, is_table};
use apus_sdk::{Conversation, Message, Row};

/// The number (from 1) of the first answer without text that would be trained.
pub fn answer(conversation: &Conversation) -> Option<usize> {
    let messages = &conversation.messages;
    let empty = |(i, message): &(usize, &Message)| {
        let goes_on = messages
            .get(i + 1)
            .is_some_and(|next| next.role == "assistant");
        message.role == "assistant"
            && message.tool_calls.is_empty()
            && message.loss != Some(false)
            && message.loss_scale != Some(0.0)
            && !goes_on
            && says_nothing(message)
    };
    let mut numbered = messages.iter().enumerate();
    numbered.find(empty).map(|(i, _)| i + 1)
}

/// Whether a message has no text besides its reasoning.
fn says_nothing(message: &Message) -> bool {
    if message.content.is_null() {
        return true;
    }
    let text = message.text().map(str::trim);
    text.is_some_and(|text| {
        let only_thinks = text.starts_with("<think>")
            && text.ends_with("</think>")
            && text.matches("</think>").count() == 1;
        text.is_empty() || only_thinks
    })
}

/// Whether a row of a table has empty cells.
pub fn has_cells(record: &Record) -> bool {
    // The reader of tables writes no spaces, and a quote inside a text is escaped: only an empty text looks like this.
    record.text.contains(r#":"""#) && is_table(&record.source)
}

/// The columns of a table whose cells are empty in this row.
pub fn cells(record: &Record) -> Vec<String> {
    if !has_cells(record) {
        return Vec::new();
    }
    let row: Row = record.row().unwrap_or_default();
    let empty = row.into_iter().filter(|(_, cell)| cell == "");
    empty.map(|(column, _)| column).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(messages: serde_json::Value) -> Option<usize> {
        answer(&Conversation {
            messages: serde_json::from_value(messages).unwrap(),
            ..Conversation::default()
        })
    }

    #[test]
    fn answers_that_say_nothing() {
        let user = json!({"role": "user", "content": ""});
        for content in [
            json!(""),
            json!(" \n"),
            json!(null),
            json!("<think>\nhm\n</think>\n"),
        ] {
            let empty = json!({"role": "assistant", "content": content, "thinking": "hm"});
            assert_eq!(found(json!([user, empty])), Some(2), "{content}");
            let answered = json!({"role": "assistant", "content": "a"});
            assert_eq!(found(json!([user, empty, user, answered])), Some(2));
            assert_eq!(found(json!([user, empty, answered])), None);
        }
        let fine = [
            json!({"role": "assistant", "content": "a"}),
            json!({"role": "assistant", "content": "<think>a</think>b"}),
            json!({"role": "assistant", "content": "<think>a</think> and </think>"}),
            json!({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {}}]}),
            json!({"role": "assistant", "content": "", "loss": false}),
            json!({"role": "assistant", "content": "", "loss_scale": 0.0}),
            json!({"role": "tool", "content": ""}),
        ];
        for message in fine {
            assert_eq!(found(json!([user, message])), None, "{message}");
        }
    }

    #[test]
    fn cells_of_tables_alone() {
        let columns = |source: &str, text: &str| {
            cells(&Record {
                source: source.into(),
                line: 2,
                text: text.to_owned(),
                format: None,
            })
        };
        let row = r#"{"a":"","b":"x:\"\"","c":""}"#;
        assert_eq!(columns("d.csv", row), ["a", "c"]);
        assert_eq!(columns("d.CSV.gz", row), ["a", "c"]);
        assert_eq!(columns("d.jsonl", row), [""; 0]);
        assert_eq!(columns("d.csv", r#"{"b":"x:\"\""}"#), [""; 0]);
    }
}
