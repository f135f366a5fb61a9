//! A format that says which columns it reads, and refuses to be given others.

use apus_sdk::serde_json::Value;
use apus_sdk::{Conversation, DatasetFormat, Message, Need, Result, Row, Sample};

apus_sdk::options! {
    struct Pairs {
        /// Columns that it says it reads.
        columns: Vec<String> = vec!["query".to_owned(), "response".to_owned()],
    }
}

apus_sdk::register! {
    /// A query and a response, and no other column.
    DatasetFormat, "pairs_of_columns", Pairs
}

impl DatasetFormat for Pairs {
    fn needs() -> &'static [Need] {
        &[Need::Columns]
    }

    fn columns(&self) -> Result<Option<Vec<String>>> {
        Ok(Some(self.columns.clone()))
    }

    fn recognises(&self, _columns: &[&str]) -> bool {
        false
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        if let Some(other) = row.keys().find(|key| !self.columns.contains(key)) {
            return Err(format!("it was given {other}").into());
        }
        let text = |column: &str| {
            let text = row.get(column).and_then(Value::as_str);
            text.ok_or(format!("`{column}` is no text"))
        };
        let messages = vec![
            Message::new("user", text("query")?),
            Message::new("assistant", text("response")?),
        ];
        Ok(vec![Conversation::new(messages).into()])
    }
}
