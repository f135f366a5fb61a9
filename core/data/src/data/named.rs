//! What a dataset's name stands for: a component of this name, or files.

use super::file::{self, Record};
use crate::hub::{self, Hub, Site};
use anyhow::{Context, Result, bail, ensure};
use apus_components::config::DatasetParts;
use apus_components::registry::{self, Named, Spec};
use apus_sdk::{Dataset, DatasetSource, Kind, Options};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A dataset whose files are known.
#[derive(Clone)]
pub struct OpenedDataset {
    /// Its files; none if its component makes the rows.
    pub files: Vec<PathBuf>,
    /// What holds for it: as the run says, or else as its component says.
    pub parts: DatasetParts,
    /// The component that changes its rows or makes them.
    component: Option<Arc<Named<dyn Dataset>>>,
}

/// A component with what it says of its rows.
struct Described {
    component: Named<dyn Dataset>,
    source: DatasetSource,
    site: Option<Site>,
    revision: Option<String>,
}

/// Finds the files of a dataset. `options` are those of the run, for components that have options of these names.
///
/// # Errors
/// The name stands for nothing, options that it does not take, or a download fails.
pub fn open(mut parts: DatasetParts, options: &Options) -> Result<OpenedDataset> {
    let Some(described) = describe(&mut parts, options)? else {
        let files = files(&parts.name)?;
        return Ok(OpenedDataset {
            files,
            parts,
            component: None,
        });
    };
    let source = &described.source;
    let files = match (source.files(), source.ids()) {
        (Some(path), _) => files(path)?,
        (None, (None, None)) => Vec::new(),
        (None, ids) => files(&word(ids, &described))?,
    };
    let works = source.is_changing() || files.is_empty();
    Ok(OpenedDataset {
        files,
        parts,
        component: works.then_some(Arc::new(described.component)),
    })
}

/// The format of a dataset's rows, if the run or the dataset's component gives one.
///
/// # Errors
/// As of [`open`]; nothing is downloaded.
pub fn format(mut parts: DatasetParts, options: &Options) -> Result<Option<Spec>> {
    describe(&mut parts, options)?;
    Ok(parts.format)
}

/// A dataset that a component is.
pub type NamedDataset = Named<dyn Dataset>;

/// The component of a dataset, if its name is that of one, and the format of its rows.
///
/// # Errors
/// As of [`open`]; nothing is downloaded.
pub fn component(
    mut parts: DatasetParts,
    options: &Options,
) -> Result<(Option<NamedDataset>, Option<Spec>)> {
    let described = describe(&mut parts, options)?;
    Ok((described.map(|described| described.component), parts.format))
}

impl OpenedDataset {
    /// Whether its component may change rows, and so reads any of their columns.
    pub fn is_changing(&self) -> bool {
        self.component.is_some()
    }

    /// The rows that its component makes; `None` if they are in files.
    ///
    /// # Errors
    /// The component fails.
    pub fn made(&self) -> Result<Option<Vec<Record>>> {
        let Some(made) = self.component.as_ref().filter(|_| self.files.is_empty()) else {
            return Ok(None);
        };
        let rows = made.context("rows", made.component.rows())?;
        let source: Arc<str> = Arc::from(self.parts.name.as_str());
        let rows = rows.into_iter().enumerate().map(|(index, row)| Record {
            source: Arc::clone(&source),
            line: index + 1,
            text: Value::Object(row).to_string(),
            format: None,
        });
        let rows: Vec<Record> = rows.collect();
        ensure!(!rows.is_empty(), "{}: it makes no rows", made.label);
        Ok(Some(rows))
    }

    /// A row as its component has it; `None` leaves it out.
    ///
    /// # Errors
    /// The text is not a row, or the component fails; the error names file and line.
    pub fn change(&self, mut record: Record) -> Result<Option<Record>> {
        let Some(changing) = self.component.as_ref().filter(|_| !self.files.is_empty()) else {
            return Ok(Some(record));
        };
        let row = changing.context("row", changing.component.row(record.row()?));
        let row = row.with_context(|| record.to_string())?;
        Ok(row.map(|row| {
            record.text = Value::Object(row).to_string();
            record
        }))
    }
}

/// Makes the component of a dataset's name, if there is one, and takes into `parts` what it says and the run does not.
fn describe(parts: &mut DatasetParts, options: &Options) -> Result<Option<Described>> {
    let Some(NameParts {
        site,
        name,
        revision,
        subsets,
    }) = named(&parts.name)?
    else {
        return match parts.options.keys().next() {
            None => Ok(None),
            Some(option) => bail!(
                "option {option}: `{}` takes no options; those of a format stand after `format=NAME`",
                parts.name
            ),
        };
    };
    let known = registry::options(Kind::Dataset, &name)?;
    let of_run = options.iter().filter(|(option, _)| known.contains(option));
    let of_run = of_run.map(|(option, value)| (option.clone(), value.clone()));
    let spec = Spec {
        name,
        options: of_run.chain(std::mem::take(&mut parts.options)).collect(),
    };
    let mut component: Named<dyn Dataset> = registry::named(&spec)?;
    let source = component.component.source(&subsets);
    let source = component.context("source", source)?;
    parts.rows = parts.rows.or(source.taken());
    if parts.format.is_none() {
        parts.format = source.named_format().map(|(name, options)| Spec {
            name: name.to_owned(),
            options: options.clone(),
        });
    }
    if parts.columns.is_null() && !source.renamed().is_empty() {
        let renamed = source.renamed().iter().cloned();
        parts.columns = renamed.map(|(old, new)| (old, Value::from(new))).collect();
    }
    Ok(Some(Described {
        component,
        source,
        site,
        revision,
    }))
}

/// A dataset's name taken apart.
struct NameParts {
    site: Option<Site>,
    name: String,
    revision: Option<String>,
    subsets: Vec<String>,
}

/// Takes the name of a dataset apart, if it is that of a component and of nothing on the disk.
fn named(word: &str) -> Result<Option<NameParts>> {
    let (site, rest) = hub::split_site(word);
    if Path::new(word).exists() || Path::new(rest).exists() {
        return Ok(None);
    }
    let (rest, subsets) = rest.split_once(':').unwrap_or((rest, ""));
    let (name, revision) = match rest.split_once('@') {
        Some((name, revision)) => (name, Some(revision.to_owned())),
        None => (rest, None),
    };
    let is_known = registry::is_known(Kind::Dataset, name)?;
    Ok(is_known.then(|| NameParts {
        site,
        name: name.to_owned(),
        revision,
        subsets: subsets
            .split('/')
            .filter(|subset| !subset.is_empty())
            .map(str::to_owned)
            .collect(),
    }))
}

/// The id of a repository as a hub takes it: on the site that the run prefers, if the data is there.
fn word((hugging_face, model_scope): (Option<&str>, Option<&str>), of: &Described) -> String {
    let preferred = of.site.unwrap_or_else(|| Hub::from_environment().site());
    let (site, id) = match (preferred, hugging_face, model_scope) {
        (Site::ModelScope, _, Some(id)) | (_, None, Some(id)) => ("ms", id),
        (_, id, _) => ("hf", id.unwrap_or_default()),
    };
    let mut word = format!("{site}::{id}");
    if let Some(revision) = &of.revision {
        word += &format!("@{revision}");
    }
    match of.source.named_subsets() {
        [] => word,
        subsets => format!("{word}:{}", subsets.join("/")),
    }
}

/// The files that a name stands for: a file, those of a folder or a pattern, or those of a dataset by its id.
///
/// # Errors
/// The name stands for nothing, or a download fails.
fn files(name: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in Hub::from_environment().dataset(name)? {
        files.extend(file::find(&path.to_string_lossy())?);
    }
    Ok(files)
}
