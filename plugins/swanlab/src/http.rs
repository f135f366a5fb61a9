//! Requests, and which failures are worth another try.

use super::secret::Secret;
use reqwest::blocking::{Client, RequestBuilder};
use reqwest::header::RETRY_AFTER;
use serde_json::Value;
use std::fmt;
use std::io::Read;
use std::sync::OnceLock;
use std::time::Duration;

/// How long a server may send nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// How long connecting to it may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest answer: the server's are a few hundred bytes each.
const MOST_ANSWER: u64 = 4 << 20;

/// Why there is no good answer.
#[derive(Debug, Clone)]
pub enum Failure {
    /// There is no answer, or a part of one, or an answer that is not the server's.
    Unreachable(String),
    /// The object store does not take a file.
    Store(String),
    /// The server answers with an error.
    Refused {
        /// The status.
        status: u16,
        /// The message of the server.
        message: String,
        /// After how many seconds the request may be sent again (`Retry-After`).
        after: Option<u64>,
    },
    /// The key is not valid, or no longer.
    Key(String),
    /// An answer that makes no sense, or a file that cannot be read.
    Invalid(String),
}

impl Failure {
    /// Whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Store(_) => true,
            Self::Refused { status, .. } => matches!(status, 401 | 408 | 425 | 429 | 500..),
            Self::Key(_) | Self::Invalid(_) => false,
        }
    }

    /// Whether the server refuses the content of the request.
    pub fn is_about_content(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 400 | 409 | 413 | 422,
                ..
            }
        )
    }

    /// Whether this is the status.
    pub fn is(&self, wanted: u16) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }

    /// The same without a secret in it.
    pub fn without(self, secret: &Secret) -> Self {
        match self {
            Self::Unreachable(text) => Self::Unreachable(secret.hidden_in(&text)),
            Self::Refused {
                status,
                message,
                after,
            } => Self::Refused {
                status,
                message: secret.hidden_in(&message),
                after,
            },
            Self::Store(text) => Self::Store(secret.hidden_in(&text)),
            Self::Key(text) => Self::Key(secret.hidden_in(&text)),
            Self::Invalid(text) => Self::Invalid(secret.hidden_in(&text)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(text) | Self::Store(text) | Self::Key(text) | Self::Invalid(text) => {
                f.write_str(text)
            }
            Self::Refused { message, .. } => f.write_str(message),
        }
    }
}

/// An answer to a request that succeeded.
#[derive(Debug)]
pub struct Reply {
    /// 200, 201, ...
    pub status: u16,
    /// Its JSON; null if it is not JSON.
    pub body: Value,
}

impl Reply {
    /// A text of the answer.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.body.get(field)?.as_str()
    }

    /// A text that the answer has to hold.
    pub fn needs(&self, field: &str, what: &str) -> Result<String, Failure> {
        let found = self.text(field).map(str::to_owned);
        found.ok_or_else(|| {
            Failure::Unreachable(format!(
                "the answer about {what} has no {field}; is it the server's?"
            ))
        })
    }
}

/// The client of a run.
pub fn client() -> Result<Client, Failure> {
    static PROVIDER: OnceLock<()> = OnceLock::new();
    // An error means that a provider is installed already, which serves as well.
    PROVIDER.get_or_init(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let client = Client::builder()
        .user_agent(concat!("apus/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .timeout(SILENCE)
        .redirect(reqwest::redirect::Policy::limited(3))
        .build();
    client.map_err(|error| Failure::Invalid(chain(error)))
}

/// Sends a request; `what` is named in errors in place of the address, which may hold a signature.
pub fn send(request: RequestBuilder, what: &str) -> Result<Reply, Failure> {
    let response = request
        .send()
        .map_err(|error| Failure::Unreachable(format!("{what}: {}", chain(error))))?;
    let status = response.status();
    let header = |name: &str| {
        let value = response.headers().get(name)?.to_str().ok()?;
        Some(value.chars().take(100).collect::<String>())
    };
    let (trace, after) = (header("traceid"), header(RETRY_AFTER.as_str()));
    let mut bytes = Vec::new();
    response
        .take(MOST_ANSWER + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::Unreachable(format!("{what}: {}", cut(error))))?;
    if bytes.len() as u64 > MOST_ANSWER {
        return Err(Failure::Unreachable(format!(
            "{what}: the answer is longer than {} MiB; is it the server's?",
            MOST_ANSWER >> 20
        )));
    }
    let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    if status.is_success() {
        let status = status.as_u16();
        return Ok(Reply { status, body });
    }
    let mut message = format!("{what}: the server answered {status}");
    if let Some(detail) = body.get("message").and_then(Value::as_str) {
        message += &format!(": {}", detail.chars().take(300).collect::<String>());
    }
    if let Some(trace) = trace {
        message += &format!(" (traceid {trace})");
    }
    Err(Failure::Refused {
        status: status.as_u16(),
        message,
        after: after.and_then(|after| after.parse().ok()),
    })
}

/// Why an answer broke off.
fn cut(error: std::io::Error) -> String {
    error
        .downcast::<reqwest::Error>()
        .map_or_else(|error| error.to_string(), chain)
}

/// An error with its innermost cause, and without the address.
pub fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut last: &dyn std::error::Error = &error;
    while let Some(source) = last.source() {
        last = source;
    }
    match last.to_string() {
        text if text == error.to_string() => text,
        text => format!("{error}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_worth_another_try() {
        let status = |status| Failure::Refused {
            status,
            message: String::new(),
            after: None,
        };
        for code in [401, 408, 429, 500, 502, 503, 504] {
            assert!(status(code).is_temporary(), "{code}");
        }
        for code in [400, 403, 404, 413, 422] {
            assert!(!status(code).is_temporary(), "{code}");
        }
        assert!(Failure::Unreachable(String::new()).is_temporary());
        assert!(!Failure::Key(String::new()).is_temporary());
    }
}
