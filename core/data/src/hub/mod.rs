//! Models and datasets by their names on Hugging Face and ModelScope: downloaded into the caches that the
//! Python libraries use, and found there without a network.

mod explain;
mod fetch;
mod http;
mod huggingface;
mod id;
mod many;
mod modelscope;
mod obtain;
mod readme;
mod repository;
mod select;
mod settings;

pub use id::{Id, Site, Subsets};
pub use settings::{Place, Settings};

use anyhow::{Result, bail};
use id::{Meaning, meaning, nearest_here};
use obtain::{Obtained, obtain};
use repository::Kind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// `--use_hf`, for the whole process like the variable USE_HF that it goes over.
static USE_HF: OnceLock<bool> = OnceLock::new();

/// Sets the site of ids that name none; nothing if it is not given.
pub fn prefer(use_hf: Option<bool>) {
    if let Some(use_hf) = use_hf {
        let _ = USE_HF.set(use_hf);
    }
}

/// Whether a word that is no path here can be an id.
pub fn is_id(word: &str) -> bool {
    matches!(meaning(word), Meaning::There(_))
}

/// Looks names up.
#[derive(Debug, Clone)]
pub struct Hub {
    settings: Settings,
}

impl Hub {
    /// With these settings.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// With the variables of the environment.
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        Self::new(Settings::read(&variable, USE_HF.get().copied()))
    }

    /// The directory of a model: a path, or an id whose files are downloaded if they are not there.
    ///
    /// # Errors
    /// Neither, no access, no network, or a download that failed.
    pub fn model(&self, word: &str) -> Result<PathBuf> {
        match meaning(word) {
            Meaning::Here(path) => Ok(path),
            Meaning::There(id) => {
                self.whole(word, &id, &|obtained| select::model(obtained.names()))
            }
            Meaning::Nothing => bail!(
                "{word}: no such model directory{}, and no id (owner/name)",
                near(word)
            ),
        }
    }

    /// The directory of a tokenizer, likewise; of an id, nothing else is downloaded.
    ///
    /// # Errors
    /// As for a model.
    pub fn tokenizer(&self, path: &Path) -> Result<PathBuf> {
        let word = path.display().to_string();
        match meaning(&word) {
            Meaning::Here(path) => Ok(path),
            Meaning::There(id) => {
                self.whole(&word, &id, &|obtained| select::tokenizer(obtained.names()))
            }
            Meaning::Nothing => bail!(
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
            Meaning::Here(path) => Ok(vec![path]),
            // `data/train.jsonl` looks like an id and is a path with a mistake.
            Meaning::There(id) if id.site.is_some() || select::extension(&id.name).is_none() => {
                let obtained = obtain(&self.settings, Kind::Dataset, word, &id, &|obtained| {
                    select::dataset(obtained.names(), &obtained.readme()?, &id.subsets)
                })?;
                Ok(obtained)
            }
            _ => Ok(vec![PathBuf::from(word)]),
        }
    }

    fn whole(
        &self,
        word: &str,
        id: &Id,
        select: &dyn Fn(&Obtained) -> Result<Vec<String>>,
    ) -> Result<PathBuf> {
        let files = obtain(&self.settings, Kind::Model, word, id, select)?;
        let first = files.first().and_then(|file| file.parent());
        Ok(first.unwrap_or(Path::new(".")).to_owned())
    }
}

fn near(word: &str) -> String {
    nearest_here(word).map_or(String::new(), |found| {
        format!("; the nearest name there is `{found}`")
    })
}
