//! Parquet: rows by the row interface, page by page; lists and structures become JSON.

use super::super::{Record, Rows};
use super::until_error;
use anyhow::{Context, Result};
use parquet::file::{reader::SerializedFileReader, serialized_reader::ReadOptionsBuilder};
use parquet::record::reader::RowIter;
use std::{fs::File, sync::Arc};

/// Rows of a parquet file; a row's line is its number, from 1.
///
/// # Errors
/// A file that is not parquet.
pub fn parquet(file: File, source: Arc<str>) -> Result<Rows> {
    let options = ReadOptionsBuilder::new().build();
    let reader = SerializedFileReader::new_with_options(file, options)
        .with_context(|| format!("{source}: not a parquet file"))?;
    let mut rows = RowIter::from_file_into(Box::new(reader));
    let mut line = 0;
    Ok(until_error(move || {
        line += 1;
        let row = rows.next()?;
        let row = row.with_context(|| format!("{source}: row {line} cannot be read"));
        Some(row.map(|row| Record {
            source: Arc::clone(&source),
            line,
            text: row.to_json_value().to_string(),
        }))
    }))
}
