//! Which columns of a file are needed: those that its format says it reads, and those that others read.

use super::columns::Columns;
use super::format::Formats;
use anyhow::Result;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Who reads columns of rows.
pub struct Reads<'a> {
    /// The formats of the run.
    pub formats: &'a Formats,
    /// Columns that others read, by the names that they have for formats.
    pub others: &'a [String],
}

impl Reads<'_> {
    /// Those of a file's columns that are needed, if it is known. `format` is the key of the one that the dataset names. A
    /// column that gets another name is always needed.
    ///
    /// # Errors
    /// A format failed.
    pub fn needed(
        &self,
        format: Option<&Arc<str>>,
        renames: &Columns,
        columns: &[&str],
    ) -> Result<Option<BTreeSet<String>>> {
        if columns.iter().any(|column| renames.renames(column)) {
            return Ok(None);
        }
        let Some(read) = self.formats.columns_read(format, columns)? else {
            return Ok(None);
        };
        Ok(Some(
            read.into_iter()
                .chain(self.others.iter().cloned())
                .collect(),
        ))
    }
}
