//! Dataset formats: rows of a file to training examples.

use crate::{Result, Sample};

/// One row of a dataset: column names to JSON values, in the order of the file.
pub type Row = serde_json::Map<String, serde_json::Value>;

/// Turns rows of one shape into training examples.
pub trait DatasetFormat: Send + Sync {
    /// Whether this format reads rows with these columns. The first row of a dataset decides;
    /// where several formats answer yes, [`rank`](Self::rank) decides.
    fn recognises(&self, columns: &[&str]) -> bool;

    /// How specific the format is: the highest rank among those that recognise a row wins.
    fn rank(&self) -> i32 {
        0
    }

    /// One row to any number of examples; an empty list drops the row (the host counts and
    /// reports it).
    ///
    /// # Errors
    /// A row of this format that is malformed. The host adds file and line.
    fn convert(&self, row: Row) -> Result<Vec<Sample>>;
}
