//! Answers as server-sent events.

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::timeout;

/// After so long without an event a comment is sent: proxies keep the connection, and a client that has gone is noticed.
const QUIET: Duration = Duration::from_secs(15);

/// Gives the events of an answer, as they come.
pub trait Events: Send + 'static {
    /// The next events; `None` after the last ones. It may be called again after it was dropped before it ended.
    fn next(&mut self) -> impl Future<Output = Option<Vec<Event>>> + Send;
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Data alone, as of chat completions.
    Data(Value),
    /// Data of an event with a name, as of responses.
    Named(&'static str, Value),
    /// `[DONE]`, the end of completions.
    Done,
}

impl Event {
    fn write(&self, out: &mut String) {
        match self {
            Self::Data(value) => *out += &format!("data: {value}\n\n"),
            Self::Named(name, value) => *out += &format!("event: {name}\ndata: {value}\n\n"),
            Self::Done => out.push_str("data: [DONE]\n\n"),
        }
    }
}

/// A response that sends these events.
pub fn response(events: impl Events) -> Response {
    let body = stream::unfold(events, |mut events| async move {
        let mut text = String::new();
        while text.is_empty() {
            match timeout(QUIET, events.next()).await {
                Ok(Some(all)) => all.iter().for_each(|event| event.write(&mut text)),
                Ok(None) => return None,
                Err(_) => text.push_str(": still here\n\n"),
            }
        }
        Some((Ok::<Bytes, Infallible>(Bytes::from(text)), events))
    });
    let mut response = Body::from_stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // nginx would hold the events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
