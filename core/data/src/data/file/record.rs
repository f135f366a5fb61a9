//! A row as text, with its location.

use anyhow::{Result, anyhow};
use apus_sdk::Row;
use std::{fmt, sync::Arc};

/// A row as text, with its location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The file, as it was named.
    pub source: Arc<str>,
    /// The line on which the row begins, from 1; in a parquet file the number of the row.
    pub line: usize,
    /// The row's JSON text.
    pub text: String,
    /// The format that its dataset names, as [`format_key`](crate::data::format::format_key) writes it.
    pub format: Option<Arc<str>>,
}

/// The location of a row, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowLocation {
    /// The file, as it was named.
    pub source: Arc<str>,
    /// The line on which the row begins, from 1.
    pub line: usize,
}

impl fmt::Display for RowLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

impl Record {
    /// The location of the row.
    pub fn location(&self) -> RowLocation {
        RowLocation {
            source: Arc::clone(&self.source),
            line: self.line,
        }
    }

    /// The row's text on one line. This keeps its meaning, since a JSON string holds no line breaks.
    pub fn one_line(&self) -> String {
        self.text.replace(['\n', '\r'], " ")
    }

    /// The row's columns.
    ///
    /// # Errors
    /// The text is not a JSON object; the error names file and line.
    pub fn row(&self) -> Result<Row> {
        serde_json::from_str(&self.text).map_err(|error| malformed(&self.source, self.line, &error))
    }
}

/// Says what is wrong with the JSON text of a row that begins on this line.
pub fn malformed(source: &str, line: usize, error: &serde_json::Error) -> anyhow::Error {
    let message = error.to_string();
    let what = message.split(" at line ").next().unwrap_or(&message);
    let line = line + error.line().saturating_sub(1);
    if error.is_data() {
        anyhow!("{source}:{line}: expected a row, a JSON object of columns: {what}")
    } else {
        anyhow!(
            "{source}:{line}: malformed JSON: {what} (column {})",
            error.column()
        )
    }
}
