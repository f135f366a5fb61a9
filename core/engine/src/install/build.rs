//! Programs that are started to get a plugin from its source: git clones, cargo builds.

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::env::consts::DLL_SUFFIX;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A crate that was built.
pub(super) struct Built {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, if its manifest says it.
    pub licence: Option<String>,
    /// Its library.
    pub file: PathBuf,
}

/// Builds the library of the crate in a folder.
pub(super) fn build(folder: &Path) -> Result<Built> {
    let manifest = folder.join("Cargo.toml");
    let manifest = manifest
        .canonicalize()
        .with_context(|| manifest.display().to_string())?;
    let metadata = cargo(folder, &["metadata", "--no-deps", "--format-version", "1"])?;
    let metadata: Value =
        serde_json::from_str(&metadata).context("the output of cargo metadata")?;
    let is_ours = |value: &Value| value["manifest_path"].as_str().map(Path::new) == Some(&manifest);
    let packages = metadata["packages"].as_array();
    let package = packages
        .and_then(|all| all.iter().find(|package| is_ours(package)))
        .with_context(|| format!("{}: names no package", manifest.display()))?;
    let text = |key: &str| package[key].as_str().map(str::to_owned);
    let lines = cargo(
        folder,
        &[
            "build",
            "--release",
            "--lib",
            "--message-format=json-render-diagnostics",
        ],
    )?;
    let file = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && is_ours(message))
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|file| file.to_string_lossy().ends_with(DLL_SUFFIX));
    Ok(Built {
        name: text("name").unwrap_or_default(),
        version: text("version").unwrap_or_default(),
        licence: text("license"),
        file: file.with_context(|| {
            format!(
                "{}: it builds no shared library; a plugin is a crate with crate-type = [\"cdylib\"]",
                manifest.display()
            )
        })?,
    })
}

/// What cargo prints on standard output.
fn cargo(folder: &Path, arguments: &[&str]) -> Result<String> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(&program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| {
            anyhow!("cargo cannot be started: {error}; it comes with Rust, from https://rustup.rs")
        })?;
    ensure!(
        output.status.success(),
        "{}: cargo {} failed ({}); what it says stands above",
        folder.display(),
        arguments[0],
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Clones a repository into a folder that is deleted in the end, at a commit or where its branch is. git may use these protocols, and
/// http on this machine.
pub(super) fn clone(url: &str, commit: Option<&str>, protocols: &str) -> Result<TempDir> {
    let folder = tempfile::tempdir().context("a folder for the clone")?;
    let here = ["http://127.0.0.1:", "http://localhost:", "http://[::1]:"];
    let protocols = match here.iter().any(|start| url.starts_with(start)) {
        true => format!("{protocols}:http"),
        false => protocols.to_owned(),
    };
    let git = |arguments: &[&str]| -> Result<String> {
        let output = Command::new("git")
            .args(arguments)
            .current_dir(folder.path())
            .env("GIT_ALLOW_PROTOCOL", &protocols)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| anyhow!("git cannot be started: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => bail!("{url}: git {} failed: {}", arguments[0], said.trim()),
        }
    };
    match commit {
        None => drop(git(&["clone", "--quiet", "--depth", "1", "--", url, "."])?),
        Some(commit) => {
            git(&["clone", "--quiet", "--no-checkout", "--", url, "."])?;
            git(&["checkout", "--quiet", "--detach", commit])?;
            let head = git(&["rev-parse", "HEAD"])?;
            ensure!(
                head.eq_ignore_ascii_case(commit),
                "{url}: HEAD is {head} after {commit} was checked out"
            );
        }
    }
    Ok(folder)
}

/// A path in a folder, which no link leads out of.
pub(super) fn inside(folder: &Path, path: &str) -> Result<PathBuf> {
    let whole = folder.join(path);
    let found = whole
        .canonicalize()
        .with_context(|| whole.display().to_string())?;
    ensure!(
        found.starts_with(folder.canonicalize()?),
        "{path}: a link leads out of {}",
        folder.display()
    );
    Ok(found)
}
