//! huggingface.co, with the cache folders of huggingface_hub: bytes are stored in `blobs` under their hash, and
//! `snapshots/COMMIT/NAME` links to them, so that Python finds what Apus downloaded, and the other way round.

use super::fetch::Download;
use super::http::{Http, HttpError, escaped, escaped_path};
use super::repository::{
    Listing, Remote, Repository, RepositoryKind, safe, safe_word, unexpected_listing,
};
use super::settings::SiteSettings;
use anyhow::{Context, Result};
use apus_sdk::small_file::{self, Limit};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A repository on huggingface.co.
pub(super) struct HuggingFace<'a> {
    pub site: &'a SiteSettings,
    pub kind: RepositoryKind,
    /// `owner/name`.
    pub name: &'a str,
    pub revision: &'a str,
}

impl HuggingFace<'_> {
    /// `models--owner--name`.
    fn folder_name(&self) -> String {
        format!("{}--{}", self.kind.plural(), self.name.replace('/', "--"))
    }

    fn home(&self) -> PathBuf {
        self.site.cache.join(self.folder_name())
    }

    fn blob(&self, file: &Remote) -> PathBuf {
        self.home().join("blobs").join(&file.etag)
    }

    fn parse(&self, url: &str, found: &Value) -> Result<Listing> {
        let commit = found["sha"]
            .as_str()
            .with_context(|| unexpected_listing(url, found).to_string())?;
        safe_word(commit)?;
        let files = found["siblings"]
            .as_array()
            .with_context(|| unexpected_listing(url, found).to_string())?;
        let files = files.iter().map(|file| {
            let expected = || unexpected_listing(url, file).to_string();
            let sha256 = file["lfs"]["sha256"].as_str();
            let etag = sha256.or(file["blobId"].as_str()).with_context(expected)?;
            let size = file["lfs"]["size"]
                .as_u64()
                .or(file["size"].as_u64())
                .with_context(expected)?;
            let name = file["rfilename"].as_str().with_context(expected)?;
            safe(name)?;
            safe_word(etag)?;
            Ok(Remote {
                name: name.to_owned(),
                size,
                etag: etag.to_owned(),
                sha256: sha256.map(str::to_owned),
            })
        });
        Ok(Listing {
            commit: commit.to_owned(),
            files: files.collect::<Result<_>>()?,
        })
    }
}

impl Repository for HuggingFace<'_> {
    fn list(&self, http: &Http) -> Result<Listing, HttpError> {
        let url = format!(
            "{}/api/{}/{}/revision/{}?blobs=true",
            self.site.endpoint,
            self.kind.plural(),
            self.name,
            escaped(self.revision)
        );
        self.parse(&url, &http.json(&url)?)
            .map_err(HttpError::Unexpected)
    }

    fn folder(&self, listing: &Listing) -> PathBuf {
        self.home().join("snapshots").join(&listing.commit)
    }

    fn cached(&self) -> Option<PathBuf> {
        let home = self.home();
        let commit = small_file::text(&home.join("refs").join(self.revision), Limit::STORED);
        let commit = commit.unwrap_or_else(|_| self.revision.to_owned());
        let folder = home.join("snapshots").join(commit.trim());
        folder.is_dir().then_some(folder)
    }

    fn download(&self, listing: &Listing, file: &Remote) -> Download {
        let kind = match self.kind {
            RepositoryKind::Model => "",
            RepositoryKind::Dataset => "datasets/",
        };
        let (endpoint, name, commit) = (&self.site.endpoint, self.name, &listing.commit);
        let locks = self.site.cache.join(".locks").join(self.folder_name());
        let blob = self.blob(file);
        Download {
            name: file.name.clone(),
            url: format!(
                "{endpoint}/{kind}{name}/resolve/{commit}/{}",
                escaped_path(&file.name)
            ),
            size: file.size,
            sha256: file.sha256.clone(),
            partial: blob.with_file_name(format!("{}.incomplete", file.etag)),
            target: blob,
            lock: locks.join(format!("{}.lock", file.etag)),
        }
    }

    fn link(&self, listing: &Listing, file: &Remote) -> Result<()> {
        let path = self.folder(listing).join(&file.name);
        let blob = self.blob(file);
        if same(&path, &blob) {
            return Ok(());
        }
        let up = "../".repeat(1 + file.name.split('/').count());
        make_link(&format!("{up}blobs/{}", file.etag), &blob, &path)
            .with_context(|| format!("{}: cannot be linked", path.display()))
    }

    fn record_commit(&self, listing: &Listing) -> Result<()> {
        if self.revision == listing.commit {
            return Ok(());
        }
        let reference = self.home().join("refs").join(self.revision);
        fs::create_dir_all(reference.parent().unwrap_or(Path::new(".")))
            .and_then(|()| fs::write(&reference, &listing.commit))
            .with_context(|| format!("{}: cannot be written", reference.display()))
    }

    fn page(&self) -> String {
        match self.kind {
            RepositoryKind::Model => format!("{}/{}", self.site.endpoint, self.name),
            RepositoryKind::Dataset => format!("{}/datasets/{}", self.site.endpoint, self.name),
        }
    }
}

/// The number of links made so far, so that each has a temporary name of its own.
static LINKS: AtomicUsize = AtomicUsize::new(0);

fn same(path: &Path, blob: &Path) -> bool {
    matches!((path.canonicalize(), blob.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Makes a link under a temporary name and renames it, so that another process sees either the old link or the new one.
fn make_link(relative: &str, blob: &Path, path: &Path) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let count = LINKS.fetch_add(1, Ordering::Relaxed);
    let own = folder.join(format!(".{}-{count}.link", std::process::id()));
    let _ = fs::remove_file(&own);
    #[cfg(unix)]
    {
        let _ = blob;
        std::os::unix::fs::symlink(relative, &own)?;
    }
    #[cfg(not(unix))]
    {
        let _ = relative;
        fs::hard_link(blob, &own)?;
    }
    fs::rename(&own, path)
}
