//! Parquet: rows by the row interface, page by page; lists and structures become JSON.
//!
//! The library panics on some broken files; here that is an error like any other.

use super::super::{Record, Rows};
use super::until_error;
use crate::panics;
use anyhow::{Context, Result, anyhow};
use parquet::errors::ParquetError;
use parquet::file::{reader::SerializedFileReader, serialized_reader::ReadOptionsBuilder};
use parquet::record::reader::RowIter;
use std::{fs::File, sync::Arc};

/// Rows of a parquet file; a row's line is its number, from 1.
///
/// # Errors
/// A file that is not parquet.
pub fn parquet(file: File, source: Arc<str>) -> Result<Rows> {
    let open = || {
        let options = ReadOptionsBuilder::new().build();
        SerializedFileReader::new_with_options(file, options)
    };
    let reader = guarded(open).with_context(|| format!("{source}: not a parquet file"))?;
    let mut rows = RowIter::from_file_into(Box::new(reader));
    let mut line = 0;
    Ok(until_error(move || {
        line += 1;
        let next = || {
            let row = rows.next().transpose()?;
            Ok::<_, ParquetError>(row.map(|row| row.to_json_value().to_string()))
        };
        let text = guarded(next).with_context(|| format!("{source}: row {line} cannot be read"));
        let record = |text| Record {
            source: Arc::clone(&source),
            line,
            text,
        };
        text.map(|text| text.map(record)).transpose()
    }))
}

fn guarded<T>(act: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    let result = panics::catch(act).map_err(|said| anyhow!("a broken file: {said}"))?;
    Ok(result?)
}
