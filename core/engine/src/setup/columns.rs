//! The columns of rows that a loss and a sampler ask for.

use anyhow::{Result, bail};
use apus_components::registry::Named;
use apus_data::chat::Encoded;
use apus_data::data::Record;
use apus_sdk::{Loss, Need, Sampler};
use std::collections::BTreeSet;

/// How many rows are looked at for the names of columns that there are.
const LOOKED_AT: usize = 1000;

/// Columns that are kept with the tokens of each row, and the components that ask for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AskedColumns {
    /// Their names.
    pub names: Vec<String>,
    /// Who asks for each of them, for messages.
    by: Vec<String>,
}

impl AskedColumns {
    /// What a loss asks for that declares [`Need::ChunkRows`]; nothing for others.
    ///
    /// # Errors
    /// The loss failed.
    pub fn of(loss: &Named<dyn Loss>) -> Result<Self> {
        let mut asked = Self::default();
        if loss.declares(Need::ChunkRows) {
            let names = loss.context("columns", loss.component.columns())?;
            asked.add(names, &loss.label);
        }
        Ok(asked)
    }

    /// These and what a sampler asks for that declares [`Need::Columns`].
    ///
    /// # Errors
    /// The sampler failed.
    pub fn and_of(mut self, sampler: &Named<dyn Sampler>) -> Result<Self> {
        if sampler.declares(Need::Columns) {
            let names = sampler.context("columns", sampler.component.columns())?;
            self.add(names, &sampler.label);
        }
        Ok(self)
    }

    fn add(&mut self, names: Vec<String>, by: &str) {
        for name in names {
            if !self.names.contains(&name) {
                self.names.push(name);
                self.by.push(by.to_owned());
            }
        }
    }

    /// Refuses columns that none of the training rows has.
    ///
    /// # Errors
    /// There is one; the error names the columns that there are.
    pub fn check(&self, samples: &[Encoded], records: &[Record]) -> Result<()> {
        for (name, by) in self.names.iter().zip(&self.by) {
            if !samples.iter().any(|sample| sample.has_column(name)) {
                let rows = records.iter().take(LOOKED_AT);
                let rows = rows.filter_map(|record| record.row().ok());
                let there: BTreeSet<String> = rows
                    .flat_map(|row| row.into_iter().map(|(name, _)| name))
                    .collect();
                let there: Vec<String> = there.into_iter().collect();
                bail!("{}; there are {}", missing(name, by), there.join(", "));
            }
        }
        Ok(())
    }

    /// What is to be said of columns that the first row of a stream does not have.
    pub fn warnings(&self, first: &Encoded) -> Vec<String> {
        let all = self.names.iter().zip(&self.by);
        all.filter(|(name, _)| !first.has_column(name))
            .map(|(name, by)| {
                format!(
                    "{by} reads the column `{name}` of rows, which the first row of the stream does not have"
                )
            })
            .collect()
    }
}

fn missing(name: &str, by: &str) -> String {
    format!("{by} reads the column `{name}` of rows, and no row of the training data has it")
}
