//! Dataset files: one reader for each type, all row by row, so that a file may be larger than memory.
//!
//! A row keeps its file and line, so that whatever goes wrong with it later can say where it is.

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

const BUFFER: usize = 1 << 20;

/// Opens a file; its rows are read as they are asked for.
///
/// # Errors
/// A file that is missing, of an unknown type, or broken at its beginning. Rows: not UTF-8, or not
/// of the file's type, with the line; after such an error the rows end.
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

/// All rows of a file.
///
/// # Errors
/// As [`open`] and its rows; a file without rows.
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
