//! modelscope.cn, with the cache folders of its Python library.
//!
//! Up to 1.37 files lie under their names in `models/owner/name`, dots of the name written `___`, by default in
//! `hub` of the cache; later in `models/owner--name/snapshots/REVISION`, no more in `hub`. Later versions go on
//! with a folder of the old kind, so new downloads go there, and whatever is there already is used.

use super::fetch::Download;
use super::http::{Http, HttpError, escaped};
use super::repository::{Listing, Remote, Repository, RepositoryKind, safe, unexpected_listing};
use super::settings::SiteSettings;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The revision of ids that name none.
const USUAL: &str = "master";
/// The number of files on a page of a dataset's listing.
const PAGE: usize = 200;
/// The most files of a listing; a server that lists more does not stop.
const MOST_FILES: usize = 1_000_000;

/// A repository on modelscope.cn.
pub(super) struct ModelScope<'a> {
    pub site: &'a SiteSettings,
    pub kind: RepositoryKind,
    /// `owner/name`.
    pub name: &'a str,
    pub revision: &'a str,
}

impl ModelScope<'_> {
    /// The folder of the files: one that has files already, or a new one.
    fn home(&self) -> PathBuf {
        let mut folders = self.old_folders();
        folders.extend(self.snapshots().map(|folder| folder.join(self.revision)));
        let first = folders[0].clone();
        folders
            .into_iter()
            .find(|folder| is_filled(folder))
            .unwrap_or(first)
    }

    /// The cache folder, and those that other versions of the library use.
    fn roots(&self) -> Vec<PathBuf> {
        let cache = &self.site.cache;
        let above = cache.parent().filter(|_| cache.ends_with("hub"));
        let mut roots = vec![cache.clone(), cache.join("hub")];
        roots.extend(above.map(Path::to_owned));
        roots
    }

    fn old_folders(&self) -> Vec<PathBuf> {
        let (owner, name) = self.name.split_once('/').unwrap_or(("", self.name));
        // Other revisions must not mix with the files of the usual one.
        let name = match self.revision {
            USUAL => name.replace('.', "___"),
            other => format!("{}@{}", name.replace('.', "___"), other.replace('/', "___")),
        };
        let roots = self.roots().into_iter();
        let folder = |root: PathBuf| root.join(self.kind.plural()).join(owner).join(&name);
        roots.map(folder).collect()
    }

    fn snapshots(&self) -> impl Iterator<Item = PathBuf> {
        let folder = format!(
            "{}/{}/snapshots",
            self.kind.plural(),
            self.name.replace('/', "--")
        );
        self.roots().into_iter().map(move |root| root.join(&folder))
    }

    /// Without a network, any revision will do where none is named and there is only one.
    fn only_snapshot(&self) -> Option<PathBuf> {
        let entries = self.snapshots().flat_map(std::fs::read_dir).flatten();
        let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        found.retain(|folder| is_filled(folder));
        match found.as_slice() {
            _ if self.revision != USUAL => None,
            [one] => Some(one.clone()),
            many => many.iter().find(|folder| folder.ends_with("main")).cloned(),
        }
    }

    fn api(&self) -> String {
        format!(
            "{}/api/v1/{}/{}/repo",
            self.site.endpoint,
            self.kind.plural(),
            self.name
        )
    }

    fn read(&self, http: &Http, url: &str) -> Result<Vec<Value>, HttpError> {
        let found = http.json(url)?;
        let files = found["Data"]["Files"]
            .as_array()
            .or(found["Data"].as_array());
        match (found["Success"].as_bool(), files) {
            (Some(false), _) | (_, None) => {
                Err(HttpError::Unexpected(unexpected_listing(url, &found)))
            }
            (_, Some(files)) => Ok(files.clone()),
        }
    }
}

/// Whether a folder exists and is not empty.
fn is_filled(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

fn parse(url: &str, file: &Value) -> Result<Option<Remote>> {
    let expected = || unexpected_listing(url, file).to_string();
    if file["Type"].as_str() == Some("tree") {
        return Ok(None);
    }
    let name = file["Path"].as_str().with_context(expected)?;
    safe(name)?;
    let Some(size) = file["Size"].as_u64() else {
        bail!(expected());
    };
    let sha256 = file["Sha256"].as_str().filter(|hash| !hash.is_empty());
    Ok(Some(Remote {
        name: name.to_owned(),
        size,
        etag: String::new(),
        sha256: sha256.map(str::to_owned),
    }))
}

impl Repository for ModelScope<'_> {
    fn list(&self, http: &Http) -> Result<Listing, HttpError> {
        let revision = escaped(self.revision);
        let mut found = Vec::new();
        let url = match self.kind {
            RepositoryKind::Model => {
                format!("{}/files?Revision={revision}&Recursive=true", self.api())
            }
            RepositoryKind::Dataset => format!(
                "{}/tree?Revision={revision}&Recursive=true&Root=/",
                self.api()
            ),
        };
        match self.kind {
            RepositoryKind::Model => found = self.read(http, &url)?,
            RepositoryKind::Dataset => {
                for number in 1.. {
                    let page =
                        self.read(http, &format!("{url}&PageNumber={number}&PageSize={PAGE}"))?;
                    let last = page.len() < PAGE;
                    found.extend(page);
                    if last {
                        break;
                    }
                    if found.len() >= MOST_FILES {
                        return Err(HttpError::Unexpected(anyhow!(
                            "{url}: the listing does not end; it has {} files so far",
                            found.len()
                        )));
                    }
                }
            }
        }
        let files = found
            .iter()
            .filter_map(|file| parse(&url, file).transpose());
        Ok(Listing {
            commit: self.revision.to_owned(),
            files: files
                .collect::<Result<_>>()
                .map_err(HttpError::Unexpected)?,
        })
    }

    fn folder(&self, _: &Listing) -> PathBuf {
        self.home()
    }

    fn cached(&self) -> Option<PathBuf> {
        let home = self.home();
        match is_filled(&home) {
            true => Some(home),
            false => self.only_snapshot(),
        }
    }

    fn download(&self, _: &Listing, file: &Remote) -> Download {
        let home = self.home();
        let growing = home.join("._____temp").join(&file.name);
        let beside = |end: &str| PathBuf::from(format!("{}{end}", growing.display()));
        Download {
            name: file.name.clone(),
            url: format!(
                "{}?Revision={}&FilePath={}",
                self.api(),
                escaped(self.revision),
                escaped(&file.name)
            ),
            size: file.size,
            sha256: file.sha256.clone(),
            target: home.join(&file.name),
            partial: beside(".incomplete"),
            lock: beside(".lock"),
        }
    }

    fn link(&self, _: &Listing, _: &Remote) -> Result<()> {
        Ok(())
    }

    fn record_commit(&self, _: &Listing) -> Result<()> {
        Ok(())
    }

    fn page(&self) -> String {
        format!(
            "{}/{}/{}",
            self.site.endpoint,
            self.kind.plural(),
            self.name
        )
    }
}
