//! One file at an address that a person or an index of plugins has named: over https, up to a size.

use super::http::{self, Credentials, Http, chain};
use anyhow::{Context, Result, anyhow, bail, ensure};
use reqwest::Url;
use reqwest::redirect::Policy;
use std::time::Duration;

/// The most redirections that are followed.
const REDIRECTIONS: usize = 10;

/// Downloads a file of at most `most` bytes.
///
/// # Errors
/// The address is not one that [`check_url`] takes, or leads to one; the server refuses it or cannot be reached; it is larger.
pub fn download(url: &str, most: u64) -> Result<Vec<u8>> {
    check_url(url)?;
    let policy = Policy::custom(|attempt| match allowed(attempt.url()) {
        Err(error) => {
            let said = format!("it leads to {}, {error}", attempt.url());
            attempt.error(said)
        }
        Ok(()) if attempt.previous().len() > REDIRECTIONS => attempt.error("it leads on and on"),
        Ok(()) => attempt.follow(),
    });
    let http = Http::following(policy, Credentials::None, Duration::from_secs(1))?;
    let response = http
        .get(url, 0)
        .map_err(|error| anyhow!("{url}: cannot be downloaded: {error}"))?;
    let bytes = http::body(response, most)
        .map_err(|error| anyhow!("{url}: cannot be downloaded: {}", chain(&error)))?;
    bytes.with_context(|| format!("{url}: it is larger than {} MiB", most >> 20))
}

/// Checks that an address is one of https; http is for servers on this machine.
///
/// # Errors
/// It is not.
pub fn check_url(url: &str) -> Result<()> {
    let parsed = Url::parse(url).with_context(|| format!("{url}: is no URL"))?;
    allowed(&parsed).with_context(|| url.to_owned())
}

fn allowed(url: &Url) -> Result<()> {
    let here = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
    ensure!(
        url.username().is_empty() && url.password().is_none(),
        "an address with a user's name or password, expected one without"
    );
    match url.scheme() {
        "https" => Ok(()),
        "http" if here => Ok(()),
        other => bail!("an address of {other}, expected https"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_and_this_machine() {
        for url in [
            "https://a.example/b.toml",
            "http://127.0.0.1:80/a",
            "http://localhost/a",
            "http://[::1]:1/a",
        ] {
            assert!(check_url(url).is_ok(), "{url}");
        }
        for url in [
            "http://a.example/b",
            "http://127.0.0.1.example/b",
            "http://127.0.0.1@a.example/b",
            "https://me:secret@a.example/b",
            "file:///etc/passwd",
            "ftp://a.example",
            "a.so",
        ] {
            assert!(check_url(url).is_err(), "{url}");
        }
    }
}
