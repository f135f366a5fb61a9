//! Explains errors of a site, with what to do about them.

use super::http::HttpError;
use super::id::{Site, nearest_here};
use super::repository::{Repository, RepositoryKind};
use super::settings::Settings;
use anyhow::{Error, anyhow};
use reqwest::StatusCode;

/// The repository that was asked for.
pub(super) struct Request<'a> {
    pub settings: &'a Settings,
    pub site: Site,
    pub kind: RepositoryKind,
    /// The id as the user wrote it.
    pub word: &'a str,
    /// `owner/name`.
    pub name: &'a str,
    pub revision: &'a str,
}

impl Request<'_> {
    /// An error message that says what to do.
    pub(super) fn explain(&self, error: &HttpError, repository: &dyn Repository) -> Error {
        let HttpError::Refused { status, code, .. } = error else {
            return anyhow!("{}: {error}", self.word);
        };
        let code = code.as_deref().unwrap_or_default();
        let has_key = self.settings.for_site(self.site).token.is_some();
        let page = repository.page();
        match *status {
            _ if code == "RevisionNotFound" => {
                anyhow!("{}: {page} has no revision {}", self.word, self.revision)
            }
            _ if code == "RepoNotFound" && !has_key => anyhow!(
                "{}; if it is private, {}",
                self.not_found(),
                self.how_to_log_in()
            ),
            StatusCode::NOT_FOUND => anyhow!("{}", self.not_found()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if !has_key => anyhow!(
                "{}: {error}. It may be private or gated: {}, and accept its conditions at {page} if it has some",
                self.word,
                self.how_to_log_in()
            ),
            StatusCode::UNAUTHORIZED => anyhow!(
                "{}: {error}. The token was not accepted; {}",
                self.word,
                self.how_to_log_in()
            ),
            StatusCode::FORBIDDEN => anyhow!(
                "{}: {error}. The token may not read it; if it is gated, accept its conditions at {page}",
                self.word
            ),
            _ => anyhow!("{}: {error}", self.word),
        }
    }

    fn not_found(&self) -> String {
        let other = match self.site {
            Site::HuggingFace => "ms::",
            Site::ModelScope => "hf::",
        };
        format!(
            "{}: there is neither such a path here{} nor the {} {} on {} (for the other site write {other}{})",
            self.word,
            self.near(),
            self.kind.noun(),
            self.name,
            self.settings.for_site(self.site).endpoint,
            self.name
        )
    }

    /// A hint at a local path whose name is much like what was written.
    pub(super) fn near(&self) -> String {
        nearest_here(self.word).map_or(String::new(), |found| format!(" (`{found}` is)"))
    }

    fn how_to_log_in(&self) -> &'static str {
        match self.site {
            Site::HuggingFace => {
                "set HF_TOKEN to a token from https://huggingface.co/settings/tokens or run `hf auth login`"
            }
            Site::ModelScope => {
                "set MODELSCOPE_API_TOKEN to a token from https://modelscope.cn/my/myaccesstoken"
            }
        }
    }
}
