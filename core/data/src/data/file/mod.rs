//! Reads dataset files: there is a reader for each type, and each reads row by row, so that a file may be larger than memory.
//!
//! A row keeps its file and line, so that every later error can name them.

mod bytes;
mod file_type;
mod paths;
mod readers;
mod record;

pub use file_type::{KNOWN, is_known, is_table};
pub use paths::find;
pub use record::{Record, RowLocation};

use anyhow::{Result, ensure};
use file_type::{Compression, FileType};
use std::collections::BTreeSet;
use std::{fs::File, io::BufRead, io::BufReader, path::Path, sync::Arc};

/// The rows of a file, one after another.
pub type RecordIter = Box<dyn Iterator<Item = Result<Record>> + Send>;

/// Says which columns of a file are needed, given all of them; all are, if it says nothing.
pub type Needed<'a> = &'a dyn Fn(&[&str]) -> Result<Option<BTreeSet<String>>>;

/// The number of bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// Opens a file; its rows are read as they are asked for.
///
/// # Errors
/// The file is missing, of an unknown type, or broken at its beginning. A row is an error with its line if it is not UTF-8 or
/// not what the type of the file says; the rows end after it.
pub fn open(path: &Path) -> Result<RecordIter> {
    Ok(open_needed(path, &|_| Ok(None))?.0)
}

/// As [`open`], without the columns that are not needed where the file holds columns apart; these are given back.
///
/// # Errors
/// As of [`open`]; nobody can say which columns are needed.
pub fn open_needed(path: &Path, needed: Needed) -> Result<(RecordIter, Vec<String>)> {
    let name = path.display().to_string();
    let (file_type, compression) = file_type::of(path)?;
    let file = File::open(path).map_err(|error| paths::missing(path, &error))?;
    let source: Arc<str> = Arc::from(name);
    if file_type == FileType::Parquet {
        return readers::parquet(file, source, needed);
    }
    let reader: Box<dyn BufRead + Send> = match compression {
        Compression::Plain => Box::new(BufReader::with_capacity(BUFFER, file)),
        Compression::Gzip => Box::new(BufReader::with_capacity(
            BUFFER,
            flate2::read::MultiGzDecoder::new(file),
        )),
        Compression::Zstd => Box::new(BufReader::with_capacity(
            BUFFER,
            zstd::stream::read::Decoder::new(file)?,
        )),
    };
    let rows = match file_type {
        FileType::Lines => readers::jsonl(reader, source),
        FileType::Text => readers::txt(reader, source),
        FileType::Table => readers::csv(reader, source)?,
        FileType::Values | FileType::Parquet => readers::json(reader, source),
    };
    Ok((rows, Vec::new()))
}

/// Reads all rows of a file.
///
/// # Errors
/// The errors of [`open`] and of its rows, or the file has no rows.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    Ok(read_needed(path, &|_| Ok(None))?.0)
}

/// As [`read`], without the columns that are not needed where the file holds columns apart; these are given back.
///
/// # Errors
/// As of [`read`] and [`open_needed`].
pub fn read_needed(path: &Path, needed: Needed) -> Result<(Vec<Record>, Vec<String>)> {
    let (records, left_out) = open_needed(path, needed)?;
    let records = records.collect::<Result<Vec<_>>>()?;
    ensure!(
        !records.is_empty(),
        "dataset {} is empty: it has no rows",
        path.display()
    );
    Ok((records, left_out))
}

#[cfg(test)]
mod tests;
