//! Adapters that are added and removed while the server runs, by vLLM's `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`.
//!
//! Whoever names a folder here makes the server read it. So this takes a key of its own, and folders below one alone.

use super::http::{ApiError, body};
use super::server::Server;
use crate::setup::{Chosen, MadeLater, setup_of};
use anyhow::Result;
use apus_components::config::Resolved;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Debug, Deserialize)]
struct LoadRequest {
    lora_name: String,
    lora_path: String,
    /// Whether an adapter of this name is replaced.
    #[serde(default)]
    load_inplace: bool,
}

#[derive(Debug, Deserialize)]
struct UnloadRequest {
    lora_name: String,
}

#[derive(Debug, Default, Deserialize)]
struct Nothing {}

/// Fields of vLLM's that are of no use here.
const REFUSED: &[body::Refused] = &[body::Refused {
    name: "base_model_name",
    harmless: &[],
    why: "there is one base model, leave it out",
}];

/// Loads an adapter.
///
/// # Errors
/// A name that is taken, a folder that is not below the one for adapters, an adapter that does not fit the model or whose tuner refuses the set-up.
pub async fn load(server: &Server, bytes: &[u8]) -> Result<Response, ApiError> {
    let (request, Nothing {}) = body::read::<LoadRequest, Nothing>(bytes, &[REFUSED])?.fields;
    let name = checked_name(&request.lora_name)?;
    if name == server.models.base() {
        return Err(ApiError::of(
            "lora_name",
            format!("`{name}` is the name of the model itself"),
        ));
    }
    let dir = below(server.options.adapters_dir.as_deref(), &request.lora_path)?;
    asked(server, &dir).map_err(|error| ApiError::of("lora_path", format!("{error:#}")))?;
    if server.models.has_adapter(name) {
        if !request.load_inplace {
            return Err(ApiError::of(
                "lora_name",
                format!(
                    "The adapter `{name}` is loaded already; unload it first, or set load_inplace"
                ),
            ));
        }
        remove(server, name).await?;
    }
    let loaded = server.worker.load_adapter(name, dir.clone()).await;
    loaded.map_err(|error| ApiError::of("lora_path", format!("{error:#}")))?;
    server.models.add(name, &dir);
    Ok((
        StatusCode::OK,
        format!("Success: LoRA adapter '{name}' added successfully."),
    )
        .into_response())
}

/// Asks the tuner of an adapter, as those that the server starts with.
fn asked(server: &Server, dir: &Path) -> Result<()> {
    let mut later = MadeLater::default();
    later.add_adapters([dir])?;
    let mut chosen = Chosen::default();
    later.add_to(&mut chosen);
    chosen.check(setup_of(server.options.flags.clone()), &Resolved::from(()))
}

/// Unloads an adapter.
///
/// # Errors
/// There is none of this name.
pub async fn unload(server: &Server, bytes: &[u8]) -> Result<Response, ApiError> {
    let refused = body::Refused {
        name: "lora_int_id",
        harmless: &[],
        why: "adapters are named by lora_name",
    };
    let (request, Nothing {}) = body::read::<UnloadRequest, Nothing>(bytes, &[&[refused]])?.fields;
    let name = request.lora_name.as_str();
    if !server.models.has_adapter(name) {
        return Err(ApiError::unknown_model(name, &server.models.names()).at("lora_name"));
    }
    remove(server, name).await?;
    Ok((
        StatusCode::OK,
        format!("Success: LoRA adapter '{name}' removed successfully."),
    )
        .into_response())
}

/// Takes the name away before the adapter, so that no new request comes to it; requests that are being answered keep it.
async fn remove(server: &Server, name: &str) -> Result<(), ApiError> {
    server.models.remove(name);
    let removed = server.worker.unload_adapter(name).await;
    removed.map_err(|error| ApiError::of("lora_name", format!("{error:#}")))
}

fn checked_name(name: &str) -> Result<&str, ApiError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:/@".contains(c);
    match !name.is_empty() && name.len() <= 128 && name.chars().all(fits) {
        true => Ok(name),
        false => Err(ApiError::of(
            "lora_name",
            format!(
                "is {:?}, expected 1 to 128 letters, digits or -_.:/@",
                name.chars().take(140).collect::<String>()
            ),
        )),
    }
}

/// The folder of an adapter, which has to lie below the one for adapters once links are followed. That it does not, and that it is not
/// there, are told alike: nobody finds out here which folders the machine has.
fn below(root: Option<&Path>, path: &str) -> Result<PathBuf, ApiError> {
    let root = root.ok_or_else(|| {
        ApiError::new(
            StatusCode::FORBIDDEN,
            "invalid_request_error",
            "Adapters are added from below one folder, and this server was started without one (--adapters_dir)",
        )
    })?;
    let none = || {
        ApiError::of(
            "lora_path",
            "is no folder of an adapter below --adapters_dir",
        )
    };
    let root = root.canonicalize().map_err(|_| none())?;
    // A path that is absolute takes the place of the root, and has to lie below it all the same.
    let dir = root.join(path).canonicalize().map_err(|_| none())?;
    let fits = dir.starts_with(&root) && dir != root && dir.join("adapter_config.json").is_file();
    // The files in it are links perhaps: what they lead to has to lie below the root, too.
    let inside = |name: &str| match dir.join(name).canonicalize() {
        Ok(file) => file.starts_with(&root),
        Err(_) => true,
    };
    let files = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "args.json",
    ];
    match fits && files.iter().all(|name| inside(name)) {
        true => Ok(dir),
        false => Err(none()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_outside_are_not_there() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("adapters");
        let adapter = |dir: &Path| {
            std::fs::create_dir_all(dir).unwrap();
            std::fs::write(dir.join("adapter_config.json"), "{}").unwrap();
        };
        adapter(&root.join("good"));
        adapter(&root.join("runs/deep"));
        adapter(&home.path().join("outside"));
        std::fs::create_dir_all(root.join("empty")).unwrap();
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(home.path().join("outside"), root.join("link")).unwrap();
            std::os::unix::fs::symlink(root.join("good"), root.join("inner")).unwrap();
            adapter(&root.join("weights"));
            std::os::unix::fs::symlink(
                "/etc/hostname",
                root.join("weights/adapter_model.safetensors"),
            )
            .unwrap();
        }
        let whole = root.join("good").display().to_string();
        for good in [
            "good",
            "./good",
            "runs/deep",
            "runs/../good",
            "inner",
            &whole,
        ] {
            assert!(below(Some(&root), good).is_ok(), "{good}");
        }
        let outside = home.path().join("outside").display().to_string();
        let mut said = std::collections::BTreeSet::new();
        for bad in [
            "",
            ".",
            "..",
            "../outside",
            "good/../../outside",
            "/etc",
            &outside,
            "link",
            "weights",
            "empty",
            "gone",
            "a\0b",
        ] {
            said.insert(below(Some(&root), bad).expect_err(bad).to_string());
        }
        assert_eq!(said.len(), 1, "{said:?}");
        let closed = below(None, "good").unwrap_err();
        assert_eq!(closed.status(), StatusCode::FORBIDDEN);
    }

    #[test]
    fn names_are_words() {
        for good in ["a", "my-org/cat_v1.2:x@y"] {
            checked_name(good).unwrap();
        }
        for bad in ["", "a b", "a\n", "é", &"x".repeat(129)] {
            checked_name(bad).unwrap_err();
        }
    }
}
