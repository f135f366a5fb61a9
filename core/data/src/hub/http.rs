//! Requests: one client with time limits, and a second try where a server asks for patience.

use anyhow::Context;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::StatusCode;
use reqwest::blocking::{Client, Response};
use reqwest::header::{AUTHORIZATION, COOKIE, RANGE, RETRY_AFTER};
use std::io::Read;
use std::sync::OnceLock;
use std::time::Duration;

/// How often something is tried.
pub(super) const TRIES: u32 = 6;
/// The longest pause between tries.
const LONGEST: Duration = Duration::from_secs(60);
/// How long a server may keep silent.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest listing of files: a hundred thousand of them take a third of it.
const MOST_JSON: u64 = 64 << 20;
/// The longest answer of a refusal that is looked at.
const MOST_REFUSAL: u64 = 64 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    /// Nobody answers.
    #[error("{0}")]
    Unreachable(String),
    /// An answer that is none.
    #[error("{url} answered {status}{}", detail(message))]
    Refused {
        /// What was asked.
        url: String,
        /// The answer.
        status: StatusCode,
        /// huggingface.co's word for it.
        code: Option<String>,
        /// What the server says.
        message: Option<String>,
    },
    /// An answer that makes no sense.
    #[error("{0:#}")]
    Odd(anyhow::Error),
}

fn detail(message: &Option<String>) -> String {
    message
        .as_ref()
        .map_or(String::new(), |text| format!(": {text}"))
}

/// Whose key goes along, and how.
#[derive(Debug, Clone)]
pub(super) enum Key {
    /// None.
    None,
    /// A user's name and password, as an address may hold them.
    Basic(String, String),
    /// `Authorization: Bearer`.
    Bearer(String),
    /// The same and modelscope.cn's cookie.
    Session(String),
}

/// The client.
pub(super) struct Http {
    client: Client,
    key: Key,
    pause: Duration,
}

impl Http {
    pub(super) fn new(key: Key, pause: Duration) -> anyhow::Result<Self> {
        static PROVIDER: OnceLock<()> = OnceLock::new();
        // An error means that there is one already, which serves as well.
        PROVIDER.get_or_init(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let client = Client::builder()
            .user_agent(concat!("apus/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(10))
            .timeout(SILENCE)
            .build()?;
        Ok(Self { client, key, pause })
    }

    /// The pause before try number `tried + 1`.
    pub(super) fn wait(&self, tried: u32) {
        std::thread::sleep((self.pause * 2u32.saturating_pow(tried)).min(LONGEST));
    }

    /// Asks for JSON.
    pub(super) fn json(&self, url: &str) -> Result<serde_json::Value, HttpError> {
        let body = body(self.get(url, 0)?, MOST_JSON);
        let body = body.map_err(|error| HttpError::Unreachable(chain(&error)))?;
        let body = body.with_context(|| {
            let most = MOST_JSON >> 20;
            format!("{url}: the answer is longer than {most} MiB, expected a listing of files")
        });
        serde_json::from_slice(&body.map_err(HttpError::Odd)?)
            .with_context(|| format!("{url}: the answer is no JSON"))
            .map_err(HttpError::Odd)
    }

    /// Asks from byte `from` on; 429 and 5xx are asked again after a pause.
    pub(super) fn get(&self, url: &str, from: u64) -> Result<Response, HttpError> {
        let mut tried = 0;
        loop {
            let mut request = self.client.get(url);
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            request = match &self.key {
                Key::None => request,
                Key::Basic(user, password) => request.basic_auth(user, Some(password)),
                Key::Bearer(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
                Key::Session(token) => request
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

/// What a server sends; nothing if it is longer than this.
fn body(response: Response, most: u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    response.take(most + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

/// The innermost cause says what happened: the outer ones repeat the address.
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

/// What does not stand for itself in an address (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// A part of an address; a `/` in it does not part it.
pub(super) fn escaped(part: &str) -> String {
    utf8_percent_encode(part, RESERVED).to_string()
}

/// The same for a path, whose `/` stay.
pub(super) fn escaped_path(path: &str) -> String {
    path.split('/').map(escaped).collect::<Vec<_>>().join("/")
}
