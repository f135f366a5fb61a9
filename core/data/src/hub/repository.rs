//! What the sites have in common: a listing, and where files of it belong here.

use super::fetch::Wanted;
use super::http::{Http, HttpError};
use super::id::is_name;
use anyhow::{Result, anyhow, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The kinds of repositories that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Weights and tokenizer.
    Model,
    /// Rows.
    Dataset,
}

impl Kind {
    /// `models` or `datasets`, as in addresses and folders of both sites.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }

    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Dataset => "dataset",
        }
    }
}

/// A file as a site lists it.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    /// Its name with folders.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// The name under which huggingface_hub keeps its bytes.
    pub etag: String,
    /// The hash of its bytes, if it is listed.
    pub sha256: Option<String>,
}

/// The files of a repository at a commit.
#[derive(Debug)]
pub(super) struct Listing {
    /// The commit, or the revision where a site does not say.
    pub commit: String,
    /// All files.
    pub files: Vec<Remote>,
}

/// A repository on a site and in its cache.
pub(super) trait Repository {
    /// Asks the site.
    fn list(&self, http: &Http) -> Result<Listing, HttpError>;
    /// The folder that holds the files, by their names.
    fn folder(&self, listing: &Listing) -> PathBuf;
    /// The folder of an earlier download.
    fn cached(&self) -> Option<PathBuf>;
    /// Where a file comes from and goes.
    fn wanted(&self, listing: &Listing, file: &Remote) -> Wanted;
    /// Makes a file that was downloaded visible under its name.
    fn link(&self, listing: &Listing, file: &Remote) -> Result<()>;
    /// Remembers the commit, once all that was wanted of it is here.
    fn settle(&self, listing: &Listing) -> Result<()>;
    /// What a person opens to see it.
    fn page(&self) -> String;
}

/// Names in listings become paths, so each must stay where it is put.
pub(super) fn safe(name: &str) -> Result<()> {
    let inside = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0'])
    };
    ensure!(
        name.split('/').all(inside),
        "the listing holds the file name {name:?}, which leads out of its folder"
    );
    Ok(())
}

/// Commits and hashes become file names too.
pub(super) fn safe_word(word: &str) -> Result<()> {
    ensure!(
        is_name(word),
        "the listing holds {word:?} where a hash is expected"
    );
    Ok(())
}

/// A listing that cannot be understood.
pub(super) fn odd(url: &str, found: &Value) -> anyhow::Error {
    let text: String = found.to_string().chars().take(200).collect();
    anyhow!("{url}: expected a listing of files, found {text}")
}

/// All files below a folder, by their names with `/`, in order.
pub(super) fn walk(folder: &Path) -> Vec<String> {
    fn visit(folder: &Path, before: &str, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = format!("{before}{}", entry.file_name().to_string_lossy());
            let path = entry.path();
            if path.is_dir() {
                visit(&path, &format!("{name}/"), names);
            } else if path.is_file() {
                names.push(name);
            }
        }
    }
    let mut names = Vec::new();
    visit(folder, "", &mut names);
    names.sort();
    names
}
