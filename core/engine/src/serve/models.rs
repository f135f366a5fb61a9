//! The models that requests can name, and `/v1/models`: the base, and each adapter.

use super::http::ApiError;
use super::server::{Server, now};
use axum::Json;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The names.
pub struct Models {
    base: String,
    root: String,
    owned_by: String,
    max_length: usize,
    created: u64,
    adapters: RwLock<BTreeMap<String, Adapter>>,
}

struct Adapter {
    dir: PathBuf,
    created: u64,
}

impl Models {
    /// A base of this name, which comes from `root`, with adapters.
    pub fn new(
        base: String,
        root: String,
        owned_by: String,
        max_length: usize,
        adapters: Vec<(String, PathBuf)>,
    ) -> Self {
        let created = now();
        let adapters = adapters
            .into_iter()
            .map(|(name, dir)| (name, Adapter { dir, created }));
        Self {
            base,
            root,
            owned_by,
            max_length,
            created,
            adapters: RwLock::new(adapters.collect()),
        }
    }

    /// The name of the base.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether there is an adapter of this name.
    pub fn has_adapter(&self, name: &str) -> bool {
        self.read().contains_key(name)
    }

    /// All names, the base first.
    pub fn names(&self) -> Vec<String> {
        let adapters = self.read();
        std::iter::once(self.base.clone())
            .chain(adapters.keys().cloned())
            .collect()
    }

    /// Adds an adapter that is loaded.
    pub fn add(&self, name: &str, dir: &Path) {
        let adapter = Adapter {
            dir: dir.to_owned(),
            created: now(),
        };
        self.write().insert(name.to_owned(), adapter);
    }

    /// Removes an adapter; says whether there was one.
    pub fn remove(&self, name: &str) -> bool {
        self.write().remove(name).is_some()
    }

    fn list(&self) -> Vec<Value> {
        let one = |id: &str, root: &str, parent: Option<&str>, created: u64| {
            json!({
                "id": id,
                "object": "model",
                "created": created,
                "owned_by": self.owned_by,
                "root": root,
                "parent": parent,
                "max_model_len": self.max_length,
            })
        };
        let base = one(&self.base, &self.root, None, self.created);
        let adapters = self.read();
        let adapters = adapters.iter().map(|(name, adapter)| {
            let root = adapter.dir.display().to_string();
            one(name, &root, Some(&self.base), adapter.created)
        });
        std::iter::once(base).chain(adapters).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Adapter>> {
        self.adapters
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Adapter>> {
        self.adapters
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// `/v1/models`.
pub fn list(server: &Server) -> Response {
    Json(json!({"object": "list", "data": server.models.list()})).into_response()
}

/// `/v1/models/{id}`.
///
/// # Errors
/// There is no such model.
pub fn one(server: &Server, id: &str) -> Result<Response, ApiError> {
    let found = server
        .models
        .list()
        .into_iter()
        .find(|model| model["id"] == id);
    match found {
        Some(model) => Ok(Json(model).into_response()),
        None => Err(ApiError::unknown_model(id, &server.models.names())),
    }
}
