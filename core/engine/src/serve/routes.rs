//! The routes, and what holds for all of them: a request id, keys, host names, errors in OpenAI's form.

use super::http::ApiError;
use super::http::body::{BodyLimits, receive};
use super::server::{Served, Server, random_id};
use super::{adapters, chat, completions, models, responses};
use apus_board::watch::is_loopback;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;
use std::sync::Arc;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Anybody who reaches the server.
    Everybody,
    /// Clients.
    Clients,
    /// The administrator.
    Admin,
}

/// The endpoints that answer.
#[derive(Debug, Clone, Copy)]
enum Endpoint {
    Chat,
    Completions,
    Responses,
    Load,
    Unload,
}

/// All routes.
pub fn routes(server: Arc<Server>) -> Router {
    let answers = |endpoint: Endpoint| post(move |state, request| answer(endpoint, state, request));
    Router::new()
        .route("/v1/chat/completions", answers(Endpoint::Chat))
        .route("/v1/completions", answers(Endpoint::Completions))
        .route("/v1/responses", answers(Endpoint::Responses))
        .route("/v1/load_lora_adapter", answers(Endpoint::Load))
        .route("/v1/unload_lora_adapter", answers(Endpoint::Unload))
        .route("/v1/models", get(list))
        .route("/v1/models/{*id}", get(one))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(method)
        .layer(middleware::from_fn_with_state(Arc::clone(&server), guard))
        .with_state(server)
}

fn whose(path: &str) -> Whose {
    match path {
        "/health" => Whose::Everybody,
        "/v1/load_lora_adapter" | "/v1/unload_lora_adapter" => Whose::Admin,
        _ => Whose::Clients,
    }
}

/// Gives each request an id, and lets it through if it may.
async fn guard(State(server): State<Arc<Server>>, mut request: Request, next: Next) -> Response {
    let id = request_id(&request);
    let path = request.uri().path().to_owned();
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = match check(&server, &request, &path) {
        Ok(()) => next.run(request).await,
        Err(error) => {
            let mut served =
                Served::new(&id, &shown(request.method(), &path), server.options.verbose);
            served.failed(&error);
            error.into_response()
        }
    };
    // What is counted by its path has a path of the server.
    let route = match response.status() {
        StatusCode::NOT_FOUND => "none",
        _ if path.starts_with("/v1/models/") => "/v1/models/{id}",
        _ => path.as_str(),
    };
    server.metrics.responded(route, response.status().as_u16());
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

#[derive(Debug, Clone)]
struct RequestId(String);

/// The id that the client gives, if it is a word, or a new one.
fn request_id(request: &Request) -> String {
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok());
    let is_letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match given {
        Some(id) if !id.is_empty() && id.len() <= 128 && id.chars().all(is_letter) => id.to_owned(),
        _ => format!("req_{}", random_id()),
    }
}

/// A request in the log: its path is cut, and has no control characters.
fn shown(method: &Method, path: &str) -> String {
    format!(
        "{method} {}",
        path.escape_debug().take(100).collect::<String>()
    )
}

fn check(server: &Server, request: &Request, path: &str) -> Result<(), ApiError> {
    let headers = request.headers();
    // A page of somebody else may let its own name lead to this machine. It cannot change the name that the browser sends.
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    if server.options.only_here && !host.is_some_and(is_loopback) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "invalid_request_error",
            "This server was started for this machine alone and answers to localhost and 127.0.0.1 only; --host lets it listen at \
             another address",
        ));
    }
    match whose(path) {
        Whose::Everybody => return Ok(()),
        Whose::Clients => server.keys.check_client(headers)?,
        Whose::Admin => server.keys.check_admin(headers)?,
    }
    match server.is_ending() {
        true => Err(ApiError::ending()),
        false => Ok(()),
    }
}

async fn answer(
    endpoint: Endpoint,
    State(server): State<Arc<Server>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let id = parts
        .extensions
        .get::<RequestId>()
        .map_or("", |id| id.0.as_str());
    let route = shown(&parts.method, parts.uri.path());
    let mut served = Served::new(id, &route, server.options.verbose);
    let limits = BodyLimits {
        bytes: server.options.max_body_bytes,
        time: server.options.client_timeout,
    };
    let answered = async {
        let bytes = receive(&parts.headers, body, limits).await?;
        let at = Arc::clone(&server);
        match endpoint {
            Endpoint::Chat => chat::answer(at, &bytes, &mut served).await,
            Endpoint::Completions => completions::answer(at, &bytes, &mut served).await,
            Endpoint::Responses => responses::answer(at, &bytes, &mut served).await,
            Endpoint::Load => adapters::load(&at, &bytes).await,
            Endpoint::Unload => adapters::unload(&at, &bytes).await,
        }
    }
    .await;
    answered.unwrap_or_else(|error| {
        served.failed(&error);
        error.into_response()
    })
}

async fn list(State(server): State<Arc<Server>>) -> Response {
    models::list(&server)
}

async fn one(State(server): State<Arc<Server>>, Path(id): Path<String>) -> Response {
    models::one(&server, &id).unwrap_or_else(IntoResponse::into_response)
}

async fn health(State(server): State<Arc<Server>>) -> Response {
    match server.is_ending() {
        true => ApiError::ending().into_response(),
        false => axum::Json(json!({"status": "ok"})).into_response(),
    }
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    (
        [(header::CONTENT_TYPE, kind)],
        server.metrics.text(&server.worker),
    )
        .into_response()
}

async fn unknown(request: Request) -> Response {
    let path = shown(request.method(), request.uri().path());
    ApiError::new(
        StatusCode::NOT_FOUND,
        "invalid_request_error",
        format!("There is no route {path}; there are /v1/chat/completions, /v1/completions, /v1/responses, /v1/models, /health and /metrics"),
    )
    .code("unknown_url")
    .into_response()
}

async fn method(request: Request) -> Response {
    let path = shown(request.method(), request.uri().path());
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "invalid_request_error",
        format!("{path}: the route does not take this method"),
    )
    .code("method_not_allowed")
    .into_response()
}
