//! Errors in the form that OpenAI's clients read: `{"error": {"message", "type", "param", "code"}}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::fmt;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    /// An error with this status and type.
    pub fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            param: None,
            code: None,
        }
    }

    /// A request that cannot be meant.
    pub fn invalid(message: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            message.to_string(),
        )
    }

    /// As [`invalid`](Self::invalid), of one field.
    pub fn of(param: impl Into<String>, message: impl fmt::Display) -> Self {
        let param = param.into();
        Self::invalid(format!("{param}: {message}")).at(param)
    }

    /// A model, or an adapter, that is not served.
    pub fn unknown_model(name: &str, known: &[String]) -> Self {
        let message = format!(
            "The model `{name}` does not exist, expected {}",
            known.join(" or ")
        );
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
            .at("model")
            .code("model_not_found")
    }

    /// An adapter that was unloaded while a request for it was read.
    pub fn unloaded(name: &str) -> Self {
        let message = format!("The model `{name}` does not exist any more");
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
            .at("model")
            .code("model_not_found")
    }

    /// A fault of the server.
    pub fn server(message: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            message.to_string(),
        )
    }

    /// The server ends and takes no more requests.
    pub fn ending() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            "The server is ending and takes no more requests",
        )
        .code("server_ending")
    }

    /// Too many answers wait already.
    pub fn too_many(waiting: usize) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_error",
            format!(
                "{waiting} answers are being generated or wait, which is the most; try again later"
            ),
        )
        .code("rate_limit_exceeded")
    }

    /// The request has taken as long as it may.
    pub fn timeout(seconds: f64) -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "timeout_error",
            format!(
                "The answer was not complete after {seconds} s, the most that a request may take"
            ),
        )
        .code("timeout")
    }

    /// Names the field that is wrong.
    #[must_use]
    pub fn at(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Adds the word by which programs know the error.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The body.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_openais() {
        let error = ApiError::of("top_p", "is 2, expected a number above 0 and up to 1");
        let expected = json!({"error": {
            "message": "top_p: is 2, expected a number above 0 and up to 1",
            "type": "invalid_request_error",
            "param": "top_p",
            "code": null,
        }});
        assert_eq!((error.status().as_u16(), error.body()), (400, expected));
        let missing = ApiError::unknown_model("x", &["a".to_owned(), "b".to_owned()]);
        assert_eq!(missing.status().as_u16(), 404);
        assert_eq!(missing.body()["error"]["code"], "model_not_found");
    }
}
