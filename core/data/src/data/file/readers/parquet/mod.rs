//! Reads parquet files, row by row and page by page. Lists, structures and maps become JSON.
//!
//! The library panics on some broken files; such a panic becomes an error.

mod schema;
mod write;

use super::super::{Needed, Record, RecordIter};
use super::until_error;
use anyhow::{Context, Result, anyhow};
use apus_base::panics;
use parquet::file::{
    reader::{FileReader, SerializedFileReader},
    serialized_reader::ReadOptionsBuilder,
};
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use std::{fs::File, sync::Arc};

/// The records of a parquet file, and its columns that are not decoded since nobody needs them; the line of a record is the
/// number of its row, from 1.
///
/// # Errors
/// The file is not parquet, or has two columns with one name.
pub fn parquet(file: File, source: Arc<str>, needed: Needed) -> Result<(RecordIter, Vec<String>)> {
    let open = || {
        let options = ReadOptionsBuilder::new().build();
        Ok(SerializedFileReader::new_with_options(file, options)?)
    };
    let reader = guarded(open).with_context(|| format!("{source}: not a parquet file"))?;
    let schema = reader.metadata().file_metadata().schema();
    let json = guarded(|| schema::json_texts(schema)).with_context(|| source.to_string())?;
    let all: Vec<&str> = schema
        .get_fields()
        .iter()
        .map(|field| field.name())
        .collect();
    let needed = needed(&all).with_context(|| source.to_string())?;
    let (fields, left_out): (Vec<_>, Vec<_>) =
        schema.get_fields().iter().cloned().partition(|field| {
            let needed = needed.as_ref();
            needed.is_none_or(|needed| needed.contains(field.name()))
        });
    let left_out: Vec<String> = left_out
        .iter()
        .map(|field| field.name().to_owned())
        .collect();
    // Rows without any column would be none to the library.
    let part = match left_out.is_empty() || fields.is_empty() {
        true => None,
        false => Some(
            Type::group_type_builder(schema.name())
                .with_fields(fields)
                .build()?,
        ),
    };
    let left_out = match part {
        Some(_) => left_out,
        None => Vec::new(),
    };
    let rows = || Ok(RowIter::from_file_into(Box::new(reader)).project(part)?);
    let mut rows = guarded(rows).with_context(|| source.to_string())?;
    let mut line = 0;
    let records = until_error(move || {
        line += 1;
        let next = || match rows.next().transpose()? {
            Some(row) => Ok(Some(write::row(&row, &json))),
            None => Ok(None),
        };
        let text = guarded(next).with_context(|| format!("{source}: row {line} cannot be read"));
        let record = |text| Record {
            source: Arc::clone(&source),
            line,
            text,
            format: None,
        };
        text.map(|text| text.map(record)).transpose()
    });
    Ok((records, left_out))
}

/// Turns a panic of the library into an error.
fn guarded<T>(read: impl FnOnce() -> Result<T>) -> Result<T> {
    panics::catch(read).map_err(|panic| anyhow!("a broken file: {panic}"))?
}
