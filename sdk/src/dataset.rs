//! Datasets by a name of their own.

use crate::{Need, Options, Result, Row, Setup};
use serde::{Deserialize, Serialize};

/// A dataset that `--dataset NAME` means, with where its rows are and how they are read. `NAME` has the form of an id
/// (`mine/tickets`) or is a word; a path that exists comes before it.
///
/// ```
/// use apus_sdk::{Dataset, DatasetSource, Result, options, register, testing};
/// use serde_json::json;
///
/// options! {
///     struct Tickets {
///         /// The year of the tickets.
///         year: i64 = 2024,
///     }
/// }
///
/// impl Dataset for Tickets {
///     fn source(&mut self, _subsets: &[String]) -> Result<DatasetSource> {
///         let path = format!("/data/tickets/{}/*.jsonl", self.year);
///         Ok(DatasetSource::path(path).column("question", "query").column("reply", "response"))
///     }
/// }
///
/// register! {
///     /// Tickets of a year.
///     Dataset, "mine/tickets", Tickets
/// }
///
/// let mut tickets = testing::make::<dyn Dataset>("mine/tickets", json!({"year": 2025}))?;
/// assert_eq!(tickets.source(&[])?.files(), Some("/data/tickets/2025/*.jsonl"));
/// # Ok::<(), apus_sdk::Error>(())
/// ```
pub trait Dataset: Send + Sync {
    /// What of SDK 1.1 and later it uses.
    fn needs() -> &'static [Need]
    where
        Self: Sized,
    {
        &[]
    }

    /// Looks at the set-up of a run before its model is read; with [`Need::Check`]. Without it nothing is checked.
    ///
    /// # Errors
    /// What contradicts the component; it ends the command.
    fn check(&self, setup: &Setup) -> Result<()> {
        setup.leave();
        Ok(())
    }

    /// Where its rows are, and how they are read; called once, before any row. `subsets` are those that stand after a `:`,
    /// as in `mine/tickets:closed/open`.
    ///
    /// # Errors
    /// Subsets that there are not, options that do not go together.
    fn source(&mut self, subsets: &[String]) -> Result<DatasetSource>;

    /// Its rows, if its source is [`made`](DatasetSource::made).
    ///
    /// # Errors
    /// Whatever keeps it from making them.
    fn rows(&self) -> Result<Vec<Row>> {
        Err("its source says that its rows are made, and it has no method `rows`".into())
    }

    /// A row as it was read, changed, or `None` to leave it out; called if its source says
    /// [`changes_rows`](DatasetSource::changes_rows). Columns are renamed after it.
    ///
    /// # Errors
    /// A row that it cannot read. The host adds file and line.
    fn row(&self, row: Row) -> Result<Option<Row>> {
        Ok(Some(row))
    }
}

/// Where the rows of a [`Dataset`](trait@crate::Dataset) are, and how they are read. What a run says of the dataset
/// (`#N`, a format, columns) goes over it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DatasetSource {
    hugging_face: Option<String>,
    model_scope: Option<String>,
    path: Option<String>,
    subsets: Vec<String>,
    rows: Option<usize>,
    format: Option<(String, Options)>,
    columns: Vec<(String, String)>,
    changes_rows: bool,
}

impl DatasetSource {
    /// A repository of Hugging Face, `owner/name`.
    pub fn hugging_face(id: impl Into<String>) -> Self {
        Self {
            hugging_face: Some(id.into()),
            ..Self::default()
        }
    }

    /// A repository of ModelScope, `owner/name`.
    pub fn model_scope(id: impl Into<String>) -> Self {
        Self {
            model_scope: Some(id.into()),
            ..Self::default()
        }
    }

    /// A file, a folder or a pattern.
    pub fn path(path: impl Into<String>) -> Self {
        Self {
            path: Some(path.into()),
            ..Self::default()
        }
    }

    /// Rows that the component makes ([`Dataset::rows`](trait@crate::Dataset)).
    pub fn made() -> Self {
        Self::default()
    }

    /// The same data on ModelScope, which is asked where the run prefers it.
    #[must_use]
    pub fn or_model_scope(self, id: impl Into<String>) -> Self {
        Self {
            model_scope: Some(id.into()),
            ..self
        }
    }

    /// Subsets of the repository.
    #[must_use]
    pub fn subsets<T: Into<String>>(self, names: impl IntoIterator<Item = T>) -> Self {
        Self {
            subsets: names.into_iter().map(Into::into).collect(),
            ..self
        }
    }

    /// How many rows are taken, `#N`.
    #[must_use]
    pub fn take(self, rows: usize) -> Self {
        Self {
            rows: Some(rows),
            ..self
        }
    }

    /// The format of the rows, with options.
    #[must_use]
    pub fn format(self, name: impl Into<String>, options: Options) -> Self {
        Self {
            format: Some((name.into(), options)),
            ..self
        }
    }

    /// Another name for a column.
    #[must_use]
    pub fn column(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.columns.push((from.into(), to.into()));
        self
    }

    /// Each row goes through [`Dataset::row`](trait@crate::Dataset).
    #[must_use]
    pub fn changes_rows(self) -> Self {
        Self {
            changes_rows: true,
            ..self
        }
    }

    /// The ids on Hugging Face and on ModelScope.
    pub fn ids(&self) -> (Option<&str>, Option<&str>) {
        (self.hugging_face.as_deref(), self.model_scope.as_deref())
    }

    /// The file, folder or pattern.
    pub fn files(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// The subsets of the repository.
    pub fn named_subsets(&self) -> &[String] {
        &self.subsets
    }

    /// How many rows are taken.
    pub fn taken(&self) -> Option<usize> {
        self.rows
    }

    /// The name and the options of the format.
    pub fn named_format(&self) -> Option<(&str, &Options)> {
        let (name, options) = self.format.as_ref()?;
        Some((name, options))
    }

    /// The renamed columns, old and new.
    pub fn renamed(&self) -> &[(String, String)] {
        &self.columns
    }

    /// Whether rows go through the component.
    pub fn is_changing(&self) -> bool {
        self.changes_rows
    }
}
