//! An index of plugins: a folder of entries, here, in a git repository, or on a server.

use super::build;
use super::entry::Entry;
use anyhow::{Context, Result, anyhow, bail, ensure};
use apus_data::hub;
use apus_sdk::small_file::{self, Limit};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The environment variable that names an index.
pub const INDEX_VARIABLE: &str = "APUS_PLUGIN_INDEX";

/// The file of a server's index that lists its entries.
const LIST: &str = "index.toml";
/// The greatest size of an entry.
const ENTRY: Limit = Limit::of(1 << 20);
/// The greatest size of a library.
const LIBRARY: Limit = Limit::of(512 << 20);

/// An index of plugins.
pub struct Index {
    label: String,
    place: Place,
}

enum Place {
    Folder(PathBuf),
    /// A clone that is deleted in the end.
    Clone(TempDir),
    /// The URL of a folder, without a slash at its end.
    Server(String),
}

/// The file `index.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// The names of the entries.
    plugins: Vec<String>,
}

impl Index {
    /// Opens an index: a folder, the https URL of a folder, or the URL of a git repository (which ends in `.git`, or has `git+` before
    /// it).
    ///
    /// # Errors
    /// It cannot be reached, or is none of these.
    pub fn open(word: &str) -> Result<Self> {
        let git = match word.strip_prefix("git+") {
            Some(url) => Some(url),
            None => Some(word).filter(|word| word.contains(':') && word.ends_with(".git")),
        };
        let place = if let Some(url) = git {
            Place::Clone(build::clone(url, None, "https:ssh:file").context("the index")?)
        } else if word.contains("://") {
            hub::check_url(word).context("the index")?;
            Place::Server(word.trim_end_matches('/').to_owned())
        } else {
            ensure!(
                Path::new(word).is_dir(),
                "the index {word}: there is no such folder, and it is no URL"
            );
            Place::Folder(word.into())
        };
        Ok(Self {
            label: word.to_owned(),
            place,
        })
    }

    /// What it was called when it was opened.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The entry of this name.
    ///
    /// # Errors
    /// There is none, or it is malformed.
    pub fn entry(&self, name: &str) -> Result<Entry> {
        let found = self.text(&format!("{name}.toml"));
        let (place, text) = found.map_err(|error| match self.names() {
            Ok(names) if !names.iter().any(|known| known == name) => error.context(format!(
                "{}: has no plugin {name}; there are {}",
                self.label,
                names.join(", ")
            )),
            _ => error,
        })?;
        Entry::read(&text, name, &place)
    }

    /// The names of its entries.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = match self.folder() {
            Some(folder) => {
                let entries = std::fs::read_dir(folder)
                    .with_context(|| format!("the index {}", folder.display()))?;
                let mut names = Vec::new();
                for entry in entries {
                    names.extend(Entry::is_entry(&entry?.file_name().to_string_lossy()));
                }
                names
            }
            None => {
                let (place, text) = self.text(LIST)?;
                let list: List = toml::from_str(&text)
                    .map_err(|error| anyhow!("{place}: {}", error.to_string().trim_end()))?;
                for name in &list.plugins {
                    ensure!(
                        Entry::is_entry(&format!("{name}.toml")).is_some(),
                        "{place}: {name:?} is no name of a plugin"
                    );
                }
                list.plugins
            }
        };
        names.sort();
        Ok(names)
    }

    /// Every entry, or why it cannot be read.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn all(&self) -> Result<Vec<Result<Entry>>> {
        Ok(self.names()?.iter().map(|name| self.entry(name)).collect())
    }

    /// A library at a URL, or at a path in this index: where it is, and its bytes.
    pub(super) fn library(&self, url: &str) -> Result<(String, Vec<u8>)> {
        match (&self.place, self.folder()) {
            _ if url.contains("://") => Ok((url.to_owned(), hub::download(url, LIBRARY.bytes)?)),
            (Place::Server(base), _) => {
                let url = format!("{base}/{}", hub::escaped_path(url));
                let bytes = hub::download(&url, LIBRARY.bytes)?;
                Ok((url, bytes))
            }
            (_, Some(folder)) => {
                let file = build::inside(folder, url)?;
                let bytes = small_file::bytes(&file, LIBRARY)?;
                let shown = match &self.place {
                    Place::Clone(_) => format!("{}/{url}", self.label),
                    _ => file.display().to_string(),
                };
                Ok((shown, bytes))
            }
            (_, None) => bail!("{}: is no folder", self.label),
        }
    }

    fn folder(&self) -> Option<&Path> {
        match &self.place {
            Place::Folder(folder) => Some(folder),
            Place::Clone(folder) => Some(folder.path()),
            Place::Server(_) => None,
        }
    }

    /// A small file of the index: where it is, and its text.
    fn text(&self, file: &str) -> Result<(String, String)> {
        match &self.place {
            Place::Server(base) => {
                let url = format!("{base}/{file}");
                let bytes = hub::download(&url, ENTRY.bytes)?;
                let text = String::from_utf8(bytes)
                    .map_err(|error| anyhow!("{url}: {}", error.utf8_error()))?;
                Ok((url, text))
            }
            Place::Folder(folder) => {
                let path = folder.join(file);
                Ok((path.display().to_string(), small_file::text(&path, ENTRY)?))
            }
            Place::Clone(folder) => {
                let text = small_file::text(&build::inside(folder.path(), file)?, ENTRY)?;
                Ok((format!("{}/{file}", self.label), text))
            }
        }
    }
}
