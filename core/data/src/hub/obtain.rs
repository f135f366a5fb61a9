//! From an id to files on disk: ask the site, choose, download what is missing; without a network, what an
//! earlier download left.

use super::explain::Asked;
use super::fetch::{Failure, Wanted};
use super::http::{Http, HttpError, Key};
use super::huggingface::HuggingFace;
use super::id::{Id, Site};
use super::many::download_all;
use super::modelscope::ModelScope;
use super::readme::Readme;
use super::repository::{Kind, Listing, Remote, Repository, walk};
use super::settings::Settings;
use anyhow::{Context, Result, bail};
use apus_base::say::info;
use apus_sdk::small_file::{self, Limit};
use std::path::PathBuf;

/// The files of a repository, there or here.
pub(super) struct Obtained<'a> {
    names: Vec<String>,
    readme: &'a dyn Fn() -> Result<Option<PathBuf>>,
}

impl Obtained<'_> {
    /// Names of all files.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// What README.md says; nothing if there is none.
    pub(super) fn readme(&self) -> Result<Readme> {
        match (self.readme)()? {
            Some(path) => {
                let text = small_file::bytes(&path, Limit::STORED)?;
                Readme::parse(&String::from_utf8_lossy(&text))
            }
            None => Ok(Readme::default()),
        }
    }
}

/// The chosen files of a repository, all of them here.
pub(super) fn obtain(
    settings: &Settings,
    kind: Kind,
    word: &str,
    id: &Id,
    select: &dyn Fn(&Obtained) -> Result<Vec<String>>,
) -> Result<Vec<PathBuf>> {
    let site = id.site.unwrap_or(settings.site);
    let place = settings.place(site);
    let token = place.token.clone();
    let name = id.name.as_str();
    let (key, usual): (fn(String) -> Key, _) = match site {
        Site::HuggingFace => (Key::Bearer, "main"),
        Site::ModelScope => (Key::Session, "master"),
    };
    let revision = id.revision.as_deref().unwrap_or(usual);
    let repository: Box<dyn Repository> = match site {
        Site::HuggingFace => Box::new(HuggingFace {
            place,
            kind,
            name,
            revision,
        }),
        Site::ModelScope => Box::new(ModelScope {
            place,
            kind,
            name,
            revision,
        }),
    };
    let asked = Asked {
        settings,
        site,
        kind,
        word,
        name,
        revision,
    };
    if settings.offline {
        return cached(repository.as_ref(), select, &asked, "HF_HUB_OFFLINE is set");
    }
    let key = match (token, place.login.clone()) {
        (Some(token), _) => key(token),
        (None, Some((user, password))) => Key::Basic(user, password),
        (None, None) => Key::None,
    };
    let http = Http::new(key, settings.pause)?;
    match repository.list(&http) {
        Ok(listing) => {
            let session = Session {
                http: &http,
                repository: repository.as_ref(),
                listing: &listing,
                asked: &asked,
            };
            session.files(select)
        }
        Err(HttpError::Unreachable(cause)) => {
            let why = format!("{} cannot be reached ({cause})", place.endpoint);
            cached(repository.as_ref(), select, &asked, &why)
        }
        Err(error) => Err(asked.explain(&error, repository.as_ref())),
    }
}

/// What an earlier download left.
fn cached(
    repository: &dyn Repository,
    select: &dyn Fn(&Obtained) -> Result<Vec<String>>,
    asked: &Asked,
    why: &str,
) -> Result<Vec<PathBuf>> {
    let (word, noun) = (asked.word, asked.kind.noun());
    let Some(folder) = repository.cached() else {
        bail!(
            "{word}: {why}, and neither such a path{} nor a download of the {noun} is here (looked in {})",
            asked.near(),
            asked.settings.place(asked.site).cache.display()
        );
    };
    let readme = || Ok(Some(folder.join("README.md")).filter(|path| path.is_file()));
    let obtained = Obtained {
        names: walk(&folder),
        readme: &readme,
    };
    let names = select(&obtained).with_context(|| {
        format!(
            "{word}: {why}, and the download in {} is not complete",
            folder.display()
        )
    })?;
    info!("note: {word}: {why}; using what is in {}", folder.display());
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

/// A repository that was listed.
struct Session<'a> {
    http: &'a Http,
    repository: &'a dyn Repository,
    listing: &'a Listing,
    asked: &'a Asked<'a>,
}

impl Session<'_> {
    fn files(&self, select: &dyn Fn(&Obtained) -> Result<Vec<String>>) -> Result<Vec<PathBuf>> {
        let folder = self.repository.folder(self.listing);
        let readme = || match self.remote("README.md") {
            Some(file) => {
                self.fetch(&[file])?;
                Ok(Some(folder.join("README.md")))
            }
            None => Ok(None),
        };
        let names = self
            .listing
            .files
            .iter()
            .map(|file| file.name.clone())
            .collect();
        let chosen = select(&Obtained {
            names,
            readme: &readme,
        })
        .with_context(|| format!("{}: {}", self.asked.word, self.repository.page()))?;
        let files: Vec<&Remote> = chosen.iter().filter_map(|name| self.remote(name)).collect();
        self.fetch(&files)?;
        self.repository.settle(self.listing)?;
        Ok(chosen.iter().map(|name| folder.join(name)).collect())
    }

    fn remote(&self, name: &str) -> Option<&Remote> {
        self.listing.files.iter().find(|file| file.name == name)
    }

    fn fetch(&self, files: &[&Remote]) -> Result<()> {
        let wanted = files
            .iter()
            .map(|file| self.repository.wanted(self.listing, file));
        let mut wanted: Vec<Wanted> = wanted.collect();
        // The same bytes under two names come once.
        wanted.sort_by(|a, b| a.target.cmp(&b.target));
        wanted.dedup_by(|a, b| a.target == b.target);
        download_all(self.http, self.asked.word, &wanted).map_err(|failure| match failure {
            Failure::Http(error) => self.asked.explain(&error, self.repository),
            Failure::Other(error) => error.context(self.asked.word.to_owned()),
        })?;
        files
            .iter()
            .try_for_each(|file| self.repository.link(self.listing, file))
    }
}
