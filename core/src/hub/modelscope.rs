//! modelscope.cn, with the folders that every version of its library reads: files lie under their names in
//! `models/owner/name`, dots of the name written `___`.

use super::fetch::Wanted;
use super::http::{Http, HttpError, escaped};
use super::repository::{Kind, Listing, Remote, Repository, odd, safe};
use super::settings::Place;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::PathBuf;

/// Files on a page of a dataset's listing.
const PAGE: usize = 200;

/// A repository there.
pub(super) struct ModelScope<'a> {
    pub place: &'a Place,
    pub kind: Kind,
    /// `owner/name`.
    pub name: &'a str,
    pub revision: &'a str,
}

impl ModelScope<'_> {
    fn home(&self) -> PathBuf {
        let (owner, name) = self.name.split_once('/').unwrap_or(("", self.name));
        let kind = self.place.cache.join(self.kind.plural());
        // Other revisions must not mix with the files of the usual one.
        let name = match self.revision {
            "master" => name.replace('.', "___"),
            other => format!("{}@{}", name.replace('.', "___"), other.replace('/', "___")),
        };
        kind.join(owner).join(name)
    }

    fn api(&self) -> String {
        format!(
            "{}/api/v1/{}/{}/repo",
            self.place.endpoint,
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
            (Some(false), _) | (_, None) => Err(HttpError::Odd(odd(url, &found))),
            (_, Some(files)) => Ok(files.clone()),
        }
    }
}

fn parse(url: &str, file: &Value) -> Result<Option<Remote>> {
    let expected = || odd(url, file).to_string();
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
            Kind::Model => format!("{}/files?Revision={revision}&Recursive=true", self.api()),
            Kind::Dataset => format!(
                "{}/tree?Revision={revision}&Recursive=true&Root=/",
                self.api()
            ),
        };
        match self.kind {
            Kind::Model => found = self.read(http, &url)?,
            Kind::Dataset => {
                for number in 1.. {
                    let page =
                        self.read(http, &format!("{url}&PageNumber={number}&PageSize={PAGE}"))?;
                    let last = page.len() < PAGE;
                    found.extend(page);
                    if last {
                        break;
                    }
                }
            }
        }
        let files = found
            .iter()
            .filter_map(|file| parse(&url, file).transpose());
        Ok(Listing {
            commit: self.revision.to_owned(),
            files: files.collect::<Result<_>>().map_err(HttpError::Odd)?,
        })
    }

    fn folder(&self, _: &Listing) -> PathBuf {
        self.home()
    }

    fn cached(&self) -> Option<PathBuf> {
        let home = self.home();
        home.is_dir().then_some(home)
    }

    fn wanted(&self, _: &Listing, file: &Remote) -> Wanted {
        let home = self.home();
        let growing = home.join("._____temp").join(&file.name);
        let beside = |end: &str| PathBuf::from(format!("{}{end}", growing.display()));
        Wanted {
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

    fn settle(&self, _: &Listing) -> Result<()> {
        Ok(())
    }

    fn page(&self) -> String {
        format!(
            "{}/{}/{}",
            self.place.endpoint,
            self.kind.plural(),
            self.name
        )
    }
}
