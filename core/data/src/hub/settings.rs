//! Reads endpoints, caches and tokens of sites from environment variables. They are those of huggingface_hub and
//! modelscope, so that settings for Python apply to Apus, too.

use super::id::Site;
use apus_sdk::small_file::{self, Limit};
use percent_encoding::percent_decode_str;
use std::path::PathBuf;
use std::time::Duration;

/// How a site is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteSettings {
    /// The URL without a slash at its end, and without user name and password, since it is shown in messages.
    pub endpoint: String,
    /// The user name and password of the URL; a token overrides them.
    pub login: Option<(String, String)>,
    /// The folder of downloads.
    pub cache: PathBuf,
    /// The access token of a user.
    pub token: Option<String>,
}

/// The settings of all sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The site of ids that name none.
    pub site: Site,
    /// Whether only what is downloaded already may be used.
    pub offline: bool,
    /// The pause before the second try; it doubles with each further one.
    pub pause: Duration,
    /// huggingface.co.
    pub hugging_face: SiteSettings,
    /// modelscope.cn.
    pub model_scope: SiteSettings,
}

impl Settings {
    /// Reads the variables; `use_hf` overrides USE_HF.
    pub fn read(variable: &dyn Fn(&str) -> Option<String>, use_hf: Option<bool>) -> Self {
        let get = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| get(name).map(|value| expand(&value, &get));
        let home = PathBuf::from(get("HOME").unwrap_or_else(|| ".".to_owned()));
        let caches = path("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache"));
        let hf_home = path("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let saved = || small_file::text(&token_file, Limit::WRITTEN).ok();
        let (hugging_face, hf_login) = address(get("HF_ENDPOINT"), "https://huggingface.co");
        let (model_scope, ms_login) =
            address(get("MODELSCOPE_DOMAIN"), "https://www.modelscope.cn");
        let use_hf = use_hf.or_else(|| get("USE_HF").map(|value| truth(&value)));
        Self {
            site: match use_hf {
                Some(false) => Site::ModelScope,
                _ => Site::HuggingFace,
            },
            offline: get("HF_HUB_OFFLINE").is_some_and(|value| truth(&value)),
            pause: Duration::from_secs(1),
            hugging_face: SiteSettings {
                endpoint: hugging_face,
                login: hf_login,
                cache: path("HF_HUB_CACHE")
                    .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
                    .unwrap_or_else(|| hf_home.join("hub")),
                token: get("HF_TOKEN")
                    .or_else(|| get("HUGGING_FACE_HUB_TOKEN"))
                    .or_else(saved)
                    .map(|token| token.trim().to_owned())
                    .filter(|token| !token.is_empty()),
            },
            model_scope: SiteSettings {
                endpoint: model_scope,
                login: ms_login,
                cache: path("MODELSCOPE_CACHE")
                    .unwrap_or_else(|| home.join(".cache/modelscope/hub")),
                token: get("MODELSCOPE_API_TOKEN").map(|token| token.trim().to_owned()),
            },
        }
    }

    /// The settings of a site.
    pub fn for_site(&self, site: Site) -> &SiteSettings {
        match site {
            Site::HuggingFace => &self.hugging_face,
            Site::ModelScope => &self.model_scope,
        }
    }
}

fn expand(value: &str, get: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    match (value.strip_prefix("~/"), get("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(value),
    }
}

/// Splits a URL from the `user:password@` in it.
fn address(given: Option<String>, default: &str) -> (String, Option<(String, String)>) {
    let text = given.unwrap_or_else(|| default.to_owned());
    let text = text.trim().trim_end_matches('/');
    let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
    let host = rest.split('/').next().unwrap_or_default();
    let Some((login, _)) = host.rsplit_once('@') else {
        return (format!("{scheme}://{rest}"), None);
    };
    let decoded = |part: &str| percent_decode_str(part).decode_utf8_lossy().into_owned();
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let rest = &rest[login.len() + 1..];
    (
        format!("{scheme}://{rest}"),
        Some((decoded(user), decoded(password))),
    )
}

fn truth(value: &str) -> bool {
    matches!(
        value.trim().to_ascii_lowercase().as_str(),
        "1" | "true" | "yes" | "on"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)], use_hf: Option<bool>) -> Settings {
        let get = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(&get, use_hf)
    }

    #[test]
    fn defaults_are_the_usual_folders() {
        let found = read(&[("HOME", "/h")], None);
        assert_eq!(found.site, Site::HuggingFace);
        assert_eq!(
            found.hugging_face.cache,
            PathBuf::from("/h/.cache/huggingface/hub")
        );
        assert_eq!(
            found.model_scope.cache,
            PathBuf::from("/h/.cache/modelscope/hub")
        );
        assert_eq!(found.hugging_face.endpoint, "https://huggingface.co");
        assert_eq!((found.hugging_face.token, found.offline), (None, false));
    }

    #[test]
    fn a_password_does_not_stay_in_an_address_that_is_shown() {
        for (given, shown, login) in [
            (
                "https://me:p%40ss@mirror/hf/",
                "https://mirror/hf",
                Some(("me", "p@ss")),
            ),
            ("me@mirror:8080", "https://mirror:8080", Some(("me", ""))),
            ("http://a@b:c@mirror", "http://mirror", Some(("a@b", "c"))),
            ("http://mirror/a@b", "http://mirror/a@b", None),
        ] {
            let found = read(&[("HF_ENDPOINT", given)], None).hugging_face;
            let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
            assert_eq!((found.endpoint.as_str(), found.login), (shown, login));
        }
    }

    #[test]
    fn variables_of_the_python_libraries_count() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "hf_saved\n").unwrap();
        let home = home.path().display().to_string();
        let found = read(
            &[
                ("HF_HOME", &home),
                ("HF_ENDPOINT", "http://mirror:1/"),
                ("HF_HUB_OFFLINE", "1"),
                ("USE_HF", "0"),
                ("MODELSCOPE_DOMAIN", "scope.example"),
                ("MODELSCOPE_CACHE", "/ms"),
                ("MODELSCOPE_API_TOKEN", "key"),
            ],
            None,
        );
        assert_eq!(found.hugging_face.cache, PathBuf::from(&home).join("hub"));
        assert_eq!(found.hugging_face.token.as_deref(), Some("hf_saved"));
        assert_eq!(found.hugging_face.endpoint, "http://mirror:1");
        assert_eq!(found.model_scope.endpoint, "https://scope.example");
        assert_eq!(found.model_scope.token.as_deref(), Some("key"));
        assert_eq!((found.site, found.offline), (Site::ModelScope, true));
        let flag = [
            ("USE_HF", "0"),
            ("HF_TOKEN", "a"),
            ("HF_HUB_CACHE", "~/c"),
            ("HOME", "/h"),
        ];
        let found = read(&flag, Some(true));
        assert_eq!(found.site, Site::HuggingFace);
        assert_eq!(found.hugging_face.token.as_deref(), Some("a"));
        assert_eq!(found.hugging_face.cache, PathBuf::from("/h/c"));
    }
}
