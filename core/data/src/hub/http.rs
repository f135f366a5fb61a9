//! HTTP requests: a client with time limits, which tries again if a server asks it to.

use anyhow::Context;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::StatusCode;
use reqwest::blocking::{Client, Response};
use reqwest::header::{AUTHORIZATION, COOKIE, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use std::io::Read;
use std::sync::OnceLock;
use std::time::Duration;

/// The number of tries.
pub(super) const TRIES: u32 = 6;
/// The longest pause between tries.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest time that a server may send nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// The greatest size of a listing of files; a hundred thousand files take a third of it.
const MOST_JSON: u64 = 64 << 20;
/// The greatest size of an error response that is read.
const MOST_REFUSAL: u64 = 64 << 10;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// The server cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The server answered with an error status.
    #[error("{url} answered {status}{}", detail(message))]
    Refused {
        /// The URL of the request.
        url: String,
        /// The status.
        status: StatusCode,
        /// The error code of huggingface.co.
        code: Option<String>,
        /// The message of the server.
        message: Option<String>,
    },
    /// The response is not what was expected.
    #[error("{0:#}")]
    Unexpected(anyhow::Error),
}

fn detail(message: &Option<String>) -> String {
    message
        .as_ref()
        .map_or(String::new(), |text| format!(": {text}"))
}

/// The credentials of a request, and how they are sent.
#[derive(Debug, Clone)]
pub(super) enum Credentials {
    /// None.
    None,
    /// A user's name and password, as an address may hold them.
    Basic(String, String),
    /// `Authorization: Bearer`.
    Bearer(String),
    /// `Authorization: Bearer`, and the cookie of modelscope.cn.
    Session(String),
}

/// The client.
pub(super) struct Http {
    client: Client,
    key: Credentials,
    pause: Duration,
}

impl Http {
    pub(super) fn new(key: Credentials, pause: Duration) -> anyhow::Result<Self> {
        Self::following(Policy::default(), key, pause)
    }

    /// One that follows redirections by this policy.
    pub(super) fn following(
        policy: Policy,
        key: Credentials,
        pause: Duration,
    ) -> anyhow::Result<Self> {
        static PROVIDER: OnceLock<()> = OnceLock::new();
        // An error means that there is one already, which serves as well.
        PROVIDER.get_or_init(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let client = Client::builder()
            .user_agent(concat!("apus/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .timeout(SILENCE)
            .redirect(policy)
            .build()?;
        Ok(Self { client, key, pause })
    }

    /// The pause before try number `tried + 1`.
    pub(super) fn wait(&self, tried: u32) {
        std::thread::sleep((self.pause * 2u32.saturating_pow(tried)).min(LONGEST));
    }

    /// Requests JSON.
    pub(super) fn json(&self, url: &str) -> Result<serde_json::Value, HttpError> {
        let body = body(self.get(url, 0)?, MOST_JSON);
        let body = body.map_err(|error| HttpError::Unreachable(chain(&error)))?;
        let body = body.with_context(|| {
            let most = MOST_JSON >> 20;
            format!("{url}: the answer is longer than {most} MiB, expected a listing of files")
        });
        serde_json::from_slice(&body.map_err(HttpError::Unexpected)?)
            .with_context(|| format!("{url}: the answer is no JSON"))
            .map_err(HttpError::Unexpected)
    }

    /// Requests a URL from byte `from` on; after the statuses 429 and 5xx it tries again, after a pause.
    pub(super) fn get(&self, url: &str, from: u64) -> Result<Response, HttpError> {
        let mut tried = 0;
        loop {
            let mut request = self.client.get(url);
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            request = match &self.key {
                Credentials::None => request,
                Credentials::Basic(user, password) => request.basic_auth(user, Some(password)),
                Credentials::Bearer(token) => {
                    request.header(AUTHORIZATION, format!("Bearer {token}"))
                }
                Credentials::Session(token) => request
                    .header(AUTHORIZATION, format!("Bearer {token}"))
                    .header(COOKIE, format!("m_session_id={token}")),
            };
            let response = request
                .send()
                .map_err(|error| HttpError::Unreachable(chain(&error)))?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            let again = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
            if !again || tried + 1 == TRIES {
                return Err(refused(url, response));
            }
            match after(&response) {
                Some(seconds) => std::thread::sleep(Duration::from_secs(seconds).min(LONGEST)),
                None => self.wait(tried),
            }
            tried += 1;
        }
    }
}

fn after(response: &Response) -> Option<u64> {
    response
        .headers()
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn refused(url: &str, response: Response) -> HttpError {
    let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
    let (status, code, said) = (
        response.status(),
        header("x-error-code"),
        header("x-error-message"),
    );
    let message = said.or_else(|| {
        let body = body(response, MOST_REFUSAL).ok()??;
        let json: serde_json::Value = serde_json::from_slice(&body).ok()?;
        let found = json.get("error").or_else(|| json.get("Message"))?;
        Some(found.as_str()?.to_owned())
    });
    HttpError::Refused {
        url: url.to_owned(),
        status,
        code,
        message,
    }
}

/// The body of a response; `None` if it is longer than `most`.
pub(super) fn body(response: Response, most: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    response.take(most + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// The message of an error with its innermost cause, since the outer ones repeat the URL.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    match last.to_string() {
        text if text == error.to_string() => text,
        text => format!("{error}: {text}"),
    }
}

/// The characters that are escaped in a URL (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Escapes a segment of a URL, `/` included.
pub(super) fn escaped(part: &str) -> String {
    utf8_percent_encode(part, RESERVED).to_string()
}

/// Escapes a path of a URL, whose `/` stay.
pub fn escaped_path(path: &str) -> String {
    path.split('/').map(escaped).collect::<Vec<_>>().join("/")
}
