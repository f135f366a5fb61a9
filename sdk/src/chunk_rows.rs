//! Which sequences and rows of the data the tokens of a chunk belong to.

use crate::{Error, Result, Row};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The tokens of a [`LossChunk`](crate::LossChunk) in their batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChunkRows {
    step: Option<u64>,
    sequences: Vec<u32>,
    positions: Vec<u32>,
    rows: Vec<BatchRow>,
}

impl ChunkRows {
    /// Tokens that belong to these sequences (indices of `rows`), at these positions of them.
    pub fn new(sequences: Vec<u32>, positions: Vec<u32>, rows: Vec<BatchRow>) -> Self {
        Self {
            step: None,
            sequences,
            positions,
            rows,
        }
    }

    /// The same in the step of this number.
    #[must_use]
    pub fn at_step(self, step: Option<u64>) -> Self {
        Self { step, ..self }
    }

    /// The number of the step that is computed, from 1; none in an evaluation.
    pub fn step(&self) -> Option<u64> {
        self.step
    }

    /// For each token the index of its sequence among those of the batch of this rank.
    pub fn sequences(&self) -> &[u32] {
        &self.sequences
    }

    /// For each token its position in its sequence: that of the label, which is predicted from the position before.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The row of each sequence of the batch, those without a token in this chunk included.
    pub fn rows(&self) -> &[BatchRow] {
        &self.rows
    }

    /// The row of each token.
    pub fn of_tokens(&self) -> impl Iterator<Item = &BatchRow> {
        let sequences = self.sequences.iter();
        sequences.filter_map(|&sequence| self.rows.get(sequence as usize))
    }
}

/// A row of the data whose tokens are a sequence of a batch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BatchRow {
    number: Option<u64>,
    channel: Option<String>,
    #[serde(with = "as_text")]
    columns: Row,
}

impl BatchRow {
    /// A row of this number and channel.
    pub fn new(number: Option<u64>, channel: Option<String>) -> Self {
        Self {
            number,
            channel,
            columns: Row::new(),
        }
    }

    /// The same with these columns, null for one that the row does not have.
    #[must_use]
    pub fn with_columns(self, columns: Row) -> Self {
        Self { columns, ..self }
    }

    /// The number of its example among those that are trained on, from 0; rows that are packed together have one. None in
    /// an evaluation.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// Its channel, from its column `channel`.
    pub fn channel(&self) -> Option<&str> {
        self.channel.as_deref()
    }

    /// The value of a column that the loss asks for ([`Loss::columns`](crate::Loss::columns)), as it stands in the dataset;
    /// null where the row does not have it.
    ///
    /// # Errors
    /// The loss does not ask for this column.
    pub fn column(&self, name: &str) -> Result<&Value> {
        self.columns.get(name).ok_or_else(|| {
            Error::new(format!(
                "the column {name:?} was not asked for when the loss was made, so that rows do not have it; give its name in \
                 fn columns(&self) -> Result<Vec<String>> of the loss"
            ))
        })
    }
}

/// Columns as a JSON text, so that they pass through any format.
mod as_text {
    use crate::Row;
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(columns: &Row, to: S) -> Result<S::Ok, S::Error> {
        match columns.is_empty() {
            true => "".serialize(to),
            false => serde_json::to_string(columns)
                .map_err(S::Error::custom)?
                .serialize(to),
        }
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Row, D::Error> {
        let text = String::deserialize(from)?;
        match text.is_empty() {
            true => Ok(Row::new()),
            false => serde_json::from_str(&text).map_err(D::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_those_that_were_asked_for() {
        let columns = json!({"score": 0.5, "tags": ["a"], "none": null});
        let row = BatchRow::new(Some(3), None).with_columns(columns.as_object().unwrap().clone());
        let text = serde_json::to_string(&row).unwrap();
        let read: BatchRow = serde_json::from_str(&text).unwrap();
        assert_eq!(read, row);
        assert_eq!(read.column("score"), Ok(&json!(0.5)));
        assert_eq!(read.column("none"), Ok(&Value::Null));
        let said = read.column("rank").unwrap_err().to_string();
        assert!(
            said.contains("fn columns(&self) -> Result<Vec<String>>"),
            "{said}"
        );
        let of_before: BatchRow = serde_json::from_str(r#"{"number": 3}"#).unwrap();
        assert_eq!(of_before, BatchRow::new(Some(3), None));
    }
}
