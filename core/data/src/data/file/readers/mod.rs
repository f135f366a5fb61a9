//! A reader for each type of file: from bytes to rows, one at a time.

mod csv;
mod json;
mod lines;
mod parquet;

pub use csv::csv;
pub use json::json;
pub use lines::{jsonl, txt};
pub use parquet::parquet;

use super::{Record, RecordIter};
use anyhow::Result;

/// The records of a reader, which end after the first error.
fn until_error(mut next: impl FnMut() -> Option<Result<Record>> + Send + 'static) -> RecordIter {
    let mut broken = false;
    Box::new(std::iter::from_fn(move || {
        if broken {
            return None;
        }
        let row = next();
        broken = matches!(row, Some(Err(_)));
        row
    }))
}
