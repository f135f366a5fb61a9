//! Models and datasets by their names on Hugging Face and ModelScope: downloaded into the caches that the
//! Python libraries use, and found there without a network.

mod explain;
mod fetch;
mod http;
mod huggingface;
mod id;
mod modelscope;
mod obtain;
mod parallel;
mod readme;
mod repository;
mod select;
mod settings;
mod url;

pub use http::escaped_path;
pub use id::{Id, Site, Subsets};
pub use settings::{Settings, SiteSettings};
pub use url::{check_url, download};

use anyhow::{Result, bail};
pub(crate) use id::split_site;
use id::{Meaning, meaning, nearest_here};
use obtain::{RepositoryFiles, obtain};
use repository::RepositoryKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// `--use_hf`, which holds for the whole process and overrides the variable USE_HF.
static USE_HF: OnceLock<bool> = OnceLock::new();

/// Sets the site of ids that name none, if the flag is given.
pub fn prefer(use_hf: Option<bool>) {
    if let Some(use_hf) = use_hf {
        let _ = USE_HF.set(use_hf);
    }
}

/// Whether a value that is no existing path can be an id.
pub fn is_id(word: &str) -> bool {
    matches!(meaning(word), Meaning::Id(_))
}

/// Finds models and datasets by path or id.
#[derive(Debug, Clone)]
pub struct Hub {
    settings: Settings,
}

impl Hub {
    /// Makes one with these settings.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// Makes one with the environment variables of this process.
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        Self::new(Settings::read(&variable, USE_HF.get().copied()))
    }

    /// The site of ids that name none.
    pub fn site(&self) -> Site {
        self.settings.site
    }

    /// The directory of a model: a path, or an id whose files are downloaded if they are not there.
    ///
    /// # Errors
    /// It is neither path nor id, access is refused, or the download failed.
    pub fn model(&self, word: &str) -> Result<PathBuf> {
        match meaning(word) {
            Meaning::Path(path) => Ok(path),
            Meaning::Id(id) => self.whole(word, &id, &|files| select::model(files.names())),
            Meaning::Neither => bail!(
                "{word}: no such model directory{}, and no id (owner/name)",
                near(word)
            ),
        }
    }

    /// The directory of a tokenizer, found like a model; of an id, only the files of the tokenizer are downloaded.
    pub fn tokenizer(&self, path: &Path) -> Result<PathBuf> {
        let word = path.display().to_string();
        match meaning(&word) {
            Meaning::Path(path) => Ok(path),
            Meaning::Id(id) => self.whole(&word, &id, &|files| select::tokenizer(files.names())),
            Meaning::Neither => bail!(
                "{word}: no such tokenizer directory{}, and no id (owner/name)",
                near(&word)
            ),
        }
    }

    /// The files of a dataset: a path as it is, or the part to train on of an id.
    ///
    /// # Errors
    /// As for a model; a path that does not exist is left to whoever reads it.
    pub fn dataset(&self, word: &str) -> Result<Vec<PathBuf>> {
        match meaning(word) {
            Meaning::Path(path) => Ok(vec![path]),
            // `data/train.jsonl` looks like an id, but is a path with a mistake.
            Meaning::Id(id) if id.site.is_some() || select::extension(&id.name).is_none() => {
                let files = obtain(
                    &self.settings,
                    RepositoryKind::Dataset,
                    word,
                    &id,
                    &|files| select::dataset(files.names(), &files.readme()?, &id.subsets),
                )?;
                Ok(files)
            }
            _ => Ok(vec![PathBuf::from(word)]),
        }
    }

    fn whole(
        &self,
        word: &str,
        id: &Id,
        select: &dyn Fn(&RepositoryFiles) -> Result<Vec<String>>,
    ) -> Result<PathBuf> {
        let files = obtain(&self.settings, RepositoryKind::Model, word, id, select)?;
        let first = files.first().and_then(|file| file.parent());
        Ok(first.unwrap_or(Path::new(".")).to_owned())
    }
}

fn near(word: &str) -> String {
    nearest_here(word).map_or(String::new(), |found| {
        format!("; the nearest name there is `{found}`")
    })
}
