//! What a file is, by its name.

use anyhow::{Result, bail};
use std::path::Path;

/// The types of files, as errors list them.
pub const KNOWN: &str =
    ".jsonl, .json, .csv, .txt (each also with .gz or .zst behind it) and .parquet";

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
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
pub enum Packed {
    /// It is not.
    Plain,
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

const KINDS: [(&str, Kind); 5] = [
    (".jsonl", Kind::Lines),
    (".json", Kind::Values),
    (".csv", Kind::Table),
    (".txt", Kind::Text),
    (".parquet", Kind::Parquet),
];

/// Type and compression of a file.
///
/// # Errors
/// A name that ends otherwise.
pub fn of(path: &Path) -> Result<(Kind, Packed)> {
    let lower = path.to_string_lossy().to_lowercase();
    let (stem, packed) = if let Some(stem) = lower.strip_suffix(".gz") {
        (stem, Packed::Gzip)
    } else if let Some(stem) = lower.strip_suffix(".zst") {
        (stem, Packed::Zstd)
    } else {
        (lower.as_str(), Packed::Plain)
    };
    let found = KINDS.iter().find(|(end, _)| stem.ends_with(end));
    match found {
        Some((_, Kind::Parquet)) if packed != Packed::Plain => bail!(
            "dataset {}: a parquet file is compressed inside and cannot be read within .gz or .zst; unpack it first",
            path.display()
        ),
        Some((_, kind)) => Ok((*kind, packed)),
        None => bail!(
            "dataset {}: unknown type of file, expected {KNOWN}",
            path.display()
        ),
    }
}

/// Whether a file of this name is a table, whose cells are text.
pub fn is_table(name: &str) -> bool {
    of(Path::new(name)).is_ok_and(|(kind, _)| kind == Kind::Table)
}

/// Whether [`super::open`] reads files of this name.
pub fn is_known(path: &Path) -> bool {
    of(path).is_ok()
}
