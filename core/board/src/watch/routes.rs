//! The routes that the page can request. All of them only read.

use super::board::{Board, news};
use super::host::is_loopback;
use crate::assets::{Asset, ICON, SHARED, STYLE, WATCH, WATCH_PAGE};
use crate::run::Cursor;
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Shared = Arc<Mutex<Board>>;

/// Headers that forbid the page to load anything from elsewhere, and other pages to frame or read it.
const RULES: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// All routes, for a page that listens at this address.
pub fn routes(board: Board, address: IpAddr) -> Router {
    let only_here = address.is_loopback();
    Router::new()
        .route("/", get(page))
        .route("/assets/{name}", get(asset))
        .route("/api/runs", get(runs))
        .route("/api/run", get(run))
        .layer(middleware::from_fn(move |request, next| {
            guard(only_here, request, next)
        }))
        .with_state(Arc::new(Mutex::new(board)))
}

/// Refuses requests for other host names, and adds the security headers to every response.
async fn guard(only_here: bool, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let mut response = match request.method() {
        &Method::GET | &Method::HEAD if only_here && !host.is_some_and(is_loopback) => (
            StatusCode::FORBIDDEN,
            "This page was started for this machine alone and answers to localhost and 127.0.0.1 only. \
             --host lets it listen at another address.\n",
        )
            .into_response(),
        &Method::GET | &Method::HEAD => next.run(request).await,
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    };
    for (name, value) in RULES {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

async fn page() -> Response {
    let tag = |asset: &Asset| format!("<script src=\"assets/{}\"></script>", asset.name);
    let tags: Vec<String> = SHARED.iter().chain([&WATCH]).map(tag).collect();
    let html = WATCH_PAGE.replace("<!-- scripts -->", &tags.join("\n"));
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], html).into_response()
}

async fn asset(Path(name): Path<String>) -> Response {
    let mut all = SHARED.iter().chain([&WATCH, &STYLE, &ICON]);
    match all.find(|asset| asset.name == name) {
        Some(asset) => ([(header::CONTENT_TYPE, asset.kind)], asset.text).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Since {
    since: u64,
    epoch: String,
}

async fn runs(State(board): State<Shared>, Query(known): Query<Since>) -> Response {
    answer(move || {
        let mut board = locked(&board);
        serde_json::to_string(&board.list(known.since, &known.epoch)).ok()
    })
    .await
}

#[derive(Deserialize)]
struct Which {
    id: String,
}

async fn run(
    State(board): State<Shared>,
    Query(which): Query<Which>,
    Query(known): Query<Cursor>,
) -> Response {
    answer(move || {
        let run = locked(&board).run(&which.id)?;
        news(&run, &known)
    })
    .await
}

fn locked(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs work that reads files on a thread that may block.
async fn answer(ask: impl FnOnce() -> Option<String> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(ask).await {
        Ok(Some(json)) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
