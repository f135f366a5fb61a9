//! Reads tables in CSV: the first line names the columns, and every cell is text. An empty cell is an empty text; the data
//! report counts those. Names that differ only in letter case belong to two columns.

use super::super::{Record, RecordIter};
use super::until_error;
use anyhow::{Result, anyhow, bail};
use apus_sdk::Row;
use csv::{Error, Reader, StringRecord};
use std::{io::BufRead, sync::Arc};

/// The records of a table in CSV.
///
/// # Errors
/// The first line cannot be read, or names a column twice.
pub fn csv(reader: Box<dyn BufRead + Send>, source: Arc<str>) -> Result<RecordIter> {
    let mut table = Reader::from_reader(reader);
    let columns = table.headers().map_err(|error| malformed(&source, error))?;
    let columns: Vec<String> = columns.iter().map(|name| name.trim().to_owned()).collect();
    refuse_repeated_names(&columns, &source)?;
    let mut rows = table.into_records();
    Ok(until_error(move || {
        let row = rows.next()?.map_err(|error| malformed(&source, error));
        Some(row.and_then(|row| record(&columns, &row, &source)))
    }))
}

/// Refuses two columns with one name, since only one of them could be read.
fn refuse_repeated_names(columns: &[String], source: &str) -> Result<()> {
    for (second, name) in columns.iter().enumerate() {
        let first = columns.iter().position(|column| column == name);
        let Some(first) = first.filter(|first| *first < second) else {
            continue;
        };
        let named = match name.as_str() {
            "" => "have no name; name them, or leave one out".to_owned(),
            name => format!("are both named `{name}`; rename one, or leave it out"),
        };
        bail!(
            "{source}:1: columns {} and {} {named}",
            first + 1,
            second + 1
        );
    }
    Ok(())
}

fn record(columns: &[String], row: &StringRecord, source: &Arc<str>) -> Result<Record> {
    let cells = columns.iter().zip(row);
    let cells: Row = cells
        .map(|(name, cell)| (name.clone(), cell.into()))
        .collect();
    Ok(Record {
        source: Arc::clone(source),
        line: row
            .position()
            .map_or(0, |position| position.line() as usize),
        text: serde_json::to_string(&cells)?,
        format: None,
    })
}

fn malformed(source: &str, error: Error) -> anyhow::Error {
    match error.position() {
        Some(position) => anyhow!("{source}:{}: malformed CSV: {error}", position.line()),
        None => anyhow!("{source}: malformed CSV: {error}"),
    }
}
