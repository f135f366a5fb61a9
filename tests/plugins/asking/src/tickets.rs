//! Datasets of every source: made, of a path with other columns and a format, of ids; and such that fail.

use apus_sdk::serde_json::{Value, json};
use apus_sdk::{Dataset, DatasetSource, Options, Result, Row};

apus_sdk::options! {
    struct Tickets {
        /// A file of tickets; without one they are made.
        file: Option<String> = None,
        /// An id on Hugging Face.
        id: Option<String> = None,
        /// The number of tickets that are made.
        made: u64 = 3,
        /// The format that it names.
        format: Option<String> = None,
        /// The function that panics.
        panics: String = String::new(),
    }
}

apus_sdk::register! {
    /// Tickets, made or from a file.
    Dataset, "mine/tickets", Tickets
}

impl Dataset for Tickets {
    fn source(&mut self, subsets: &[String]) -> Result<DatasetSource> {
        assert_ne!(self.panics, "source");
        if subsets.iter().any(|subset| subset != "closed") {
            return Err("there is one subset, closed".into());
        }
        let mut source = match (&self.file, &self.id) {
            (Some(file), _) => DatasetSource::path(file)
                .changes_rows()
                .column("ask", "query"),
            (None, Some(id)) => DatasetSource::hugging_face(id),
            (None, None) => DatasetSource::made(),
        };
        if let Some(format) = &self.format {
            source = source.format(format, Options::new());
        }
        Ok(source.take(2))
    }

    fn rows(&self) -> Result<Vec<Row>> {
        assert_ne!(self.panics, "rows");
        let row = |number: u64| match json!({"query": format!("Ticket {number}?"), "response": "Closed."})
        {
            Value::Object(row) => row,
            _ => Row::new(),
        };
        Ok((0..self.made).map(row).collect())
    }

    fn row(&self, mut row: Row) -> Result<Option<Row>> {
        assert_ne!(self.panics, "row");
        row.insert("response".to_owned(), json!("Changed."));
        Ok((!row.contains_key("spam")).then_some(row))
    }
}
