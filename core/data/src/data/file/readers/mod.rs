//! The readers, one for each type of file. Each turns bytes into rows, one at a time.

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

/// Makes an iterator that ends after the first error.
fn until_error(mut next: impl FnMut() -> Option<Result<Record>> + Send + 'static) -> RecordIter {
    let mut has_failed = false;
    Box::new(std::iter::from_fn(move || {
        if has_failed {
            return None;
        }
        let row = next();
        has_failed = matches!(row, Some(Err(_)));
        row
    }))
}
