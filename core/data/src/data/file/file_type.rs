//! Recognises the type of a file by its name.

use anyhow::{Result, bail};
use std::path::Path;

/// The endings of known types, for messages.
pub const KNOWN: &str =
    ".jsonl, .json, .csv, .txt (each also with .gz or .zst behind it) and .parquet";

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// A JSON object on each line.
    Lines,
    /// An array of JSON objects, or objects one after another.
    Values,
    /// Comma-separated values; the first line names the columns.
    Table,
    /// Each line is a row with the column `text`.
    Text,
    /// Parquet.
    Parquet,
}

/// How the file is compressed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    Plain,
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

/// The ending of each type.
const ENDINGS: [(&str, FileType); 5] = [
    (".jsonl", FileType::Lines),
    (".json", FileType::Values),
    (".csv", FileType::Table),
    (".txt", FileType::Text),
    (".parquet", FileType::Parquet),
];

/// The type and the compression of a file.
///
/// # Errors
/// The name has no known ending.
pub fn of(path: &Path) -> Result<(FileType, Compression)> {
    let lower = path.to_string_lossy().to_lowercase();
    let (stem, compression) = if let Some(stem) = lower.strip_suffix(".gz") {
        (stem, Compression::Gzip)
    } else if let Some(stem) = lower.strip_suffix(".zst") {
        (stem, Compression::Zstd)
    } else {
        (lower.as_str(), Compression::Plain)
    };
    let found = ENDINGS.iter().find(|(ending, _)| stem.ends_with(ending));
    match found {
        Some((_, FileType::Parquet)) if compression != Compression::Plain => bail!(
            "dataset {}: a parquet file is compressed inside and cannot be read within .gz or .zst; unpack it first",
            path.display()
        ),
        Some((_, file_type)) => Ok((*file_type, compression)),
        None => bail!(
            "dataset {}: unknown type of file, expected {KNOWN}",
            path.display()
        ),
    }
}

/// Whether a file of this name is a table, whose cells are text.
pub fn is_table(name: &str) -> bool {
    of(Path::new(name)).is_ok_and(|(file_type, _)| file_type == FileType::Table)
}

/// Whether [`super::open`] reads files of this name.
pub fn is_known(path: &Path) -> bool {
    of(path).is_ok()
}
