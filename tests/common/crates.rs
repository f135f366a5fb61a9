//! Building crates in a test: in workspaces of their own, with one target folder, from what cargo has fetched already.

use super::text;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The target folder of everything that tests build.
pub fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin_builds")
}

/// How everything that tests build is compiled: what is built once and never looked into needs no debug information, and
/// little optimisation.
pub const PROFILES: [(&str, &str); 3] = [
    ("CARGO_PROFILE_DEV_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    ("CARGO_INCREMENTAL", "0"),
];

/// Runs cargo in a folder.
pub fn cargo(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO"))
        .arg(arguments[0])
        .arg("--offline")
        .args(&arguments[1..])
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", target())
        .envs(PROFILES)
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo starts")
}

/// The command has to have worked.
#[track_caller]
pub fn built(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// The manifest of a workspace of these members with the shared tables of this one, as far as they name no crate of it but
/// the SDK.
pub fn workspace_manifest(manifest: &str, members: &[&str]) -> String {
    let (_, shared) = manifest.split_once("[workspace.package]").unwrap();
    let (shared, _) = shared.split_once("\n[package]").unwrap();
    let kept = shared
        .lines()
        .filter(|line| !line.contains("path = \"") || line.contains("apus-sdk"));
    let kept = kept.collect::<Vec<_>>().join("\n");
    format!("[workspace]\nmembers = {members:?}\nresolver = \"3\"\n[workspace.package]{kept}\n")
}

/// Files of a commit of this repository, unpacked into a folder; nothing if the commit is not there, as in a shallow clone.
pub fn of_commit(commit: &str, paths: &[&str], to: &Path) -> Option<()> {
    let archive = Command::new("git")
        .args(["archive", commit, "--"])
        .args(paths)
        .current_dir(ROOT)
        .output()
        .ok()?;
    if !archive.status.success() {
        return None;
    }
    let file = to.join("archive.tar");
    fs::write(&file, archive.stdout).unwrap();
    let unpacked = Command::new("tar")
        .arg("xf")
        .arg(&file)
        .current_dir(to)
        .output();
    built(&unpacked.expect("tar starts"));
    Some(())
}
