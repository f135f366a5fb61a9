//! Reads the body of a request: its bytes within limits of size and time, its JSON with the place of every fault.

use super::error::ApiError;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use tokio::time::timeout;

/// How much a client may send, and how long that may take.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Bytes.
    pub bytes: usize,
    /// From the end of the head to the end of the body.
    pub time: Duration,
}

/// Receives a body.
///
/// # Errors
/// It is too long, comes too slowly, breaks off, or is not said to be JSON: a browser sends other types for pages of anybody
/// without asking the server first.
pub async fn receive(
    headers: &HeaderMap,
    body: Body,
    limits: BodyLimits,
) -> Result<Bytes, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            format!("The content-type is `{essence}`, expected application/json"),
        ));
    }
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > limits.bytes) {
        return Err(too_large(limits.bytes));
    }
    match timeout(limits.time, axum::body::to_bytes(body, limits.bytes)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) if is_too_large(&error) => Err(too_large(limits.bytes)),
        Ok(Err(error)) => Err(ApiError::invalid(format!("The body broke off: {error}"))),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout_error",
            format!("The body was not complete after {:?}", limits.time),
        )),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        source = error.source();
    }
    false
}

fn too_large(most: usize) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "invalid_request_error",
        format!("The body is longer than {most} bytes, the most that this server takes"),
    )
    .code("request_too_large")
}

/// A field that would change the answer and is not built.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    /// Its name.
    pub name: &'static str,
    /// Values that ask for nothing, as JSON; null is one always.
    pub harmless: &'static [&'static str],
    /// What there is instead.
    pub why: &'static str,
}

/// Fields that change no answer here.
const WITHOUT_EFFECT: [&str; 13] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "request_id",
    "priority",
    "cache_salt",
    "include",
    "max_tool_calls",
];

/// A request that was read.
#[derive(Debug)]
pub struct Read<T> {
    /// What the endpoint has of its own, or two parts of it.
    pub fields: T,
    /// Fields that nobody knows; they are named in the log and change nothing.
    pub unknown: Vec<String>,
}

/// Parses JSON and reads it in two parts: what the endpoint has of its own, and what several have in common.
///
/// # Errors
/// Text that is no JSON object, with line and column; a field of another type, with its path; a field of `refused`.
pub fn read<A: DeserializeOwned, B: DeserializeOwned>(
    bytes: &[u8],
    refused: &[&[Refused]],
) -> Result<Read<(A, B)>, ApiError> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| ApiError::invalid(format!("The body is no JSON: {error}")))?;
    let Value::Object(keys) = &value else {
        return Err(ApiError::invalid(format!(
            "The body is {}, expected a JSON object",
            kind(&value)
        )));
    };
    for rule in refused.iter().copied().flatten() {
        if let Some(found) = keys.get(rule.name)
            && !is_harmless(rule, found)
        {
            let shown: String = found.to_string().chars().take(60).collect();
            return Err(ApiError::of(
                rule.name,
                format!("{shown} is not supported: {}", rule.why),
            ));
        }
    }
    let (own, mut unknown) = part::<A>(&value)?;
    let (common, unknown_there) = part::<B>(&value)?;
    let known = |name: &str| {
        let mut rules = refused.iter().copied().flatten();
        WITHOUT_EFFECT.contains(&name) || rules.any(|rule| rule.name == name)
    };
    let is_whole = |path: &String| keys.contains_key(path.as_str());
    unknown.retain(|path| unknown_there.contains(path) || !is_whole(path));
    unknown.extend(unknown_there.into_iter().filter(|path| !is_whole(path)));
    unknown.retain(|path| !known(path));
    Ok(Read {
        fields: (own, common),
        unknown,
    })
}

/// Reads a part of a request, and the paths of what it does not read.
fn part<T: DeserializeOwned>(value: &Value) -> Result<(T, Vec<String>), ApiError> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let read = serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()));
    match read {
        Ok(part) => Ok((part, unknown)),
        Err(error) => match track.path().to_string().as_str() {
            "." => Err(ApiError::invalid(error)),
            path => Err(ApiError::of(path, error)),
        },
    }
}

fn is_harmless(rule: &Refused, value: &Value) -> bool {
    let known =
        |text: &&str| serde_json::from_str::<Value>(text).is_ok_and(|known| known == *value);
    value.is_null() || rule.harmless.iter().any(known)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    struct Own {
        messages: Vec<Message>,
    }

    #[derive(Debug, Deserialize)]
    struct Message {
        role: String,
    }

    #[derive(Debug, Deserialize)]
    struct Common {
        temperature: Option<f64>,
    }

    const RULES: &[Refused] = &[Refused {
        name: "audio",
        harmless: &["false"],
        why: "there is text alone",
    }];

    fn error(body: &str) -> (String, Option<String>) {
        let error = read::<Own, Common>(body.as_bytes(), &[RULES]).unwrap_err();
        let param = error.body()["error"]["param"].as_str().map(str::to_owned);
        (error.to_string(), param)
    }

    #[test]
    fn faults_have_their_place() {
        let (message, _) = error("{\"messages\":\n [}");
        assert!(message.contains("line 2 column 3"), "{message}");
        assert!(error("[]").0.contains("a list, expected a JSON object"));
        let (message, param) = error(r#"{"messages": [{"role": "user"}, {"role": 1}]}"#);
        assert_eq!(param.as_deref(), Some("messages[1].role"));
        assert!(message.contains("expected a string"), "{message}");
        let (_, param) = error(r#"{"messages": [], "temperature": "hot"}"#);
        assert_eq!(param.as_deref(), Some("temperature"));
        let (message, param) = error(r#"{"messages": [], "audio": {"voice": "a"}}"#);
        assert_eq!(param.as_deref(), Some("audio"));
        assert!(message.contains("there is text alone"), "{message}");
        assert!(error("{}").0.contains("missing field `messages`"));
    }

    #[test]
    fn what_nobody_reads_is_named() {
        let body = br#"{"messages": [{"role": "a", "odd": 1}], "temperature": 1, "store": true, "audio": false, "new": 2}"#;
        let read = read::<Own, Common>(body, &[RULES]).unwrap();
        assert_eq!(read.unknown, ["messages.0.odd", "new"]);
        assert_eq!(read.fields.0.messages[0].role, "a");
        assert_eq!(read.fields.1.temperature, Some(1.0));
    }
}
