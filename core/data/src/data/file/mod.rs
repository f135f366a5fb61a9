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
use std::{fs::File, io::BufRead, io::BufReader, path::Path, sync::Arc};

/// The rows of a file, one after another.
pub type RecordIter = Box<dyn Iterator<Item = Result<Record>> + Send>;

/// The number of bytes that are read at once.
const BUFFER: usize = 1 << 20;

/// Opens a file; its rows are read as they are asked for.
///
/// # Errors
/// The file is missing, of an unknown type, or broken at its beginning. A row is an error with its line if it is not UTF-8 or
/// not what the type of the file says; the rows end after it.
pub fn open(path: &Path) -> Result<RecordIter> {
    let name = path.display().to_string();
    let (file_type, compression) = file_type::of(path)?;
    let file = File::open(path).map_err(|error| paths::missing(path, &error))?;
    let source: Arc<str> = Arc::from(name);
    if file_type == FileType::Parquet {
        return readers::parquet(file, source);
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
    match file_type {
        FileType::Lines => Ok(readers::jsonl(reader, source)),
        FileType::Text => Ok(readers::txt(reader, source)),
        FileType::Table => readers::csv(reader, source),
        FileType::Values | FileType::Parquet => Ok(readers::json(reader, source)),
    }
}

/// Reads all rows of a file.
///
/// # Errors
/// The errors of [`open`] and of its rows, or the file has no rows.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let records = open(path)?.collect::<Result<Vec<_>>>()?;
    ensure!(
        !records.is_empty(),
        "dataset {} is empty: it has no rows",
        path.display()
    );
    Ok(records)
}

#[cfg(test)]
mod tests;
