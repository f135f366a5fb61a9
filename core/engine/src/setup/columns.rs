//! The columns of rows that a loss asks for.

use anyhow::{Result, bail};
use apus_components::registry::Named;
use apus_data::chat::Encoded;
use apus_data::data::Record;
use apus_sdk::{Loss, Need};
use std::collections::BTreeSet;

/// How many rows are looked at for the names of columns that there are.
const LOOKED_AT: usize = 1000;

/// Columns that are kept with the tokens of each row, and the loss that asks for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AskedColumns {
    /// Their names.
    pub names: Vec<String>,
    /// The loss, for messages.
    by: String,
}

impl AskedColumns {
    /// What a loss asks for that declares [`Need::ChunkRows`]; nothing for others.
    ///
    /// # Errors
    /// The loss failed.
    pub fn of(loss: &Named<dyn Loss>) -> Result<Self> {
        let mut asked = Self::default();
        if loss.declares(Need::ChunkRows) {
            asked.names = loss.context("columns", loss.component.columns())?;
            asked.by.clone_from(&loss.label);
        }
        Ok(asked)
    }

    /// Refuses columns that none of the training rows has.
    ///
    /// # Errors
    /// There is one; the error names the columns that there are.
    pub fn check(&self, samples: &[Encoded], records: &[Record]) -> Result<()> {
        for name in &self.names {
            if !samples.iter().any(|sample| sample.has_column(name)) {
                let rows = records.iter().take(LOOKED_AT);
                let rows = rows.filter_map(|record| record.row().ok());
                let there: BTreeSet<String> = rows
                    .flat_map(|row| row.into_iter().map(|(name, _)| name))
                    .collect();
                let there: Vec<String> = there.into_iter().collect();
                bail!("{}; there are {}", self.missing(name), there.join(", "));
            }
        }
        Ok(())
    }

    /// What is to be said of columns that the first row of a stream does not have.
    pub fn warnings(&self, first: &Encoded) -> Vec<String> {
        let missing = self.names.iter().filter(|name| !first.has_column(name));
        missing
            .map(|name| {
                format!(
                    "{} reads the column `{name}` of rows, which the first row of the stream does not have",
                    self.by
                )
            })
            .collect()
    }

    fn missing(&self, name: &str) -> String {
        format!(
            "{} reads the column `{name}` of rows, and no row of the training data has it",
            self.by
        )
    }
}
