//! Turns an id into files on disk: it lists the repository, chooses files and downloads those that are missing. Without a
//! network it uses what an earlier download left.

use super::explain::Request;
use super::fetch::{Download, Failure};
use super::http::{Credentials, Http, HttpError};
use super::huggingface::HuggingFace;
use super::id::{Id, Site};
use super::modelscope::ModelScope;
use super::parallel::download_all;
use super::readme::Readme;
use super::repository::{Listing, Remote, Repository, RepositoryKind, walk};
use super::settings::Settings;
use anyhow::{Context, Result, bail};
use apus_base::lines::info;
use apus_sdk::small_file::{self, Limit};
use std::path::PathBuf;

/// The names of a repository's files, and its README.
pub(super) struct RepositoryFiles<'a> {
    names: Vec<String>,
    readme: &'a dyn Fn() -> Result<Option<PathBuf>>,
}

impl RepositoryFiles<'_> {
    /// The names of all files.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The content of README.md; empty if there is none.
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

/// Downloads the chosen files of a repository and returns their paths.
pub(super) fn obtain(
    settings: &Settings,
    kind: RepositoryKind,
    word: &str,
    id: &Id,
    select: &dyn Fn(&RepositoryFiles) -> Result<Vec<String>>,
) -> Result<Vec<PathBuf>> {
    let site = id.site.unwrap_or(settings.site);
    let site_settings = settings.for_site(site);
    let token = site_settings.token.clone();
    let name = id.name.as_str();
    let (key, usual): (fn(String) -> Credentials, _) = match site {
        Site::HuggingFace => (Credentials::Bearer, "main"),
        Site::ModelScope => (Credentials::Session, "master"),
    };
    let revision = id.revision.as_deref().unwrap_or(usual);
    let repository: Box<dyn Repository> = match site {
        Site::HuggingFace => Box::new(HuggingFace {
            site: site_settings,
            kind,
            name,
            revision,
        }),
        Site::ModelScope => Box::new(ModelScope {
            site: site_settings,
            kind,
            name,
            revision,
        }),
    };
    let request = Request {
        settings,
        site,
        kind,
        word,
        name,
        revision,
    };
    if settings.offline {
        return cached(
            repository.as_ref(),
            select,
            &request,
            "HF_HUB_OFFLINE is set",
        );
    }
    let key = match (token, site_settings.login.clone()) {
        (Some(token), _) => key(token),
        (None, Some((user, password))) => Credentials::Basic(user, password),
        (None, None) => Credentials::None,
    };
    let http = Http::new(key, settings.pause)?;
    match repository.list(&http) {
        Ok(listing) => {
            let session = ListedRepository {
                http: &http,
                repository: repository.as_ref(),
                listing: &listing,
                request: &request,
            };
            session.files(select)
        }
        Err(HttpError::Unreachable(cause)) => {
            let why = format!("{} cannot be reached ({cause})", site_settings.endpoint);
            cached(repository.as_ref(), select, &request, &why)
        }
        Err(error) => Err(request.explain(&error, repository.as_ref())),
    }
}

/// The chosen files of an earlier download.
fn cached(
    repository: &dyn Repository,
    select: &dyn Fn(&RepositoryFiles) -> Result<Vec<String>>,
    request: &Request,
    why: &str,
) -> Result<Vec<PathBuf>> {
    let (word, noun) = (request.word, request.kind.noun());
    let Some(folder) = repository.cached() else {
        bail!(
            "{word}: {why}, and neither such a path{} nor a download of the {noun} is here (looked in {})",
            request.near(),
            request.settings.for_site(request.site).cache.display()
        );
    };
    let readme = || Ok(Some(folder.join("README.md")).filter(|path| path.is_file()));
    let files = RepositoryFiles {
        names: walk(&folder),
        readme: &readme,
    };
    let names = select(&files).with_context(|| {
        format!(
            "{word}: {why}, and the download in {} is not complete",
            folder.display()
        )
    })?;
    info!("note: {word}: {why}; using what is in {}", folder.display());
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

/// A repository that was listed.
struct ListedRepository<'a> {
    http: &'a Http,
    repository: &'a dyn Repository,
    listing: &'a Listing,
    request: &'a Request<'a>,
}

impl ListedRepository<'_> {
    fn files(
        &self,
        select: &dyn Fn(&RepositoryFiles) -> Result<Vec<String>>,
    ) -> Result<Vec<PathBuf>> {
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
        let chosen = select(&RepositoryFiles {
            names,
            readme: &readme,
        })
        .with_context(|| format!("{}: {}", self.request.word, self.repository.page()))?;
        let files: Vec<&Remote> = chosen.iter().filter_map(|name| self.remote(name)).collect();
        self.fetch(&files)?;
        self.repository.record_commit(self.listing)?;
        Ok(chosen.iter().map(|name| folder.join(name)).collect())
    }

    fn remote(&self, name: &str) -> Option<&Remote> {
        self.listing.files.iter().find(|file| file.name == name)
    }

    fn fetch(&self, files: &[&Remote]) -> Result<()> {
        let downloads = files
            .iter()
            .map(|file| self.repository.download(self.listing, file));
        let mut downloads: Vec<Download> = downloads.collect();
        // The same bytes under two names are downloaded once.
        downloads.sort_by(|a, b| a.target.cmp(&b.target));
        downloads.dedup_by(|a, b| a.target == b.target);
        download_all(self.http, self.request.word, &downloads).map_err(
            |failure| match failure {
                Failure::Http(error) => self.request.explain(&error, self.repository),
                Failure::Other(error) => error.context(self.request.word.to_owned()),
            },
        )?;
        files
            .iter()
            .try_for_each(|file| self.repository.link(self.listing, file))
    }
}
