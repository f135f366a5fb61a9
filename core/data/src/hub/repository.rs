//! What the sites have in common: a listing of files, and the local paths of those files.

use super::fetch::Download;
use super::http::{Http, HttpError};
use super::id::is_name;
use anyhow::{Result, anyhow, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The kinds of repositories that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RepositoryKind {
    /// Weights and tokenizer.
    Model,
    /// Rows.
    Dataset,
}

impl RepositoryKind {
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
    /// The download of a file: its URL and local paths.
    fn download(&self, listing: &Listing, file: &Remote) -> Download;
    /// Links the name of a file to its downloaded bytes, if the cache keeps them elsewhere.
    fn link(&self, listing: &Listing, file: &Remote) -> Result<()>;
    /// Records the commit in the cache once all chosen files are downloaded.
    fn record_commit(&self, listing: &Listing) -> Result<()>;
    /// The URL of its page for people.
    fn page(&self) -> String;
}

/// Checks a file name of a listing, which becomes a path and must not lead out of its folder.
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

/// Checks a commit or hash of a listing, which becomes a file name.
pub(super) fn safe_word(word: &str) -> Result<()> {
    ensure!(
        is_name(word),
        "the listing holds {word:?} where a hash is expected"
    );
    Ok(())
}

/// The error for a listing of an unexpected form.
pub(super) fn unexpected_listing(url: &str, found: &Value) -> anyhow::Error {
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
