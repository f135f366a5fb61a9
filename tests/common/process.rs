//! Programs that are plugins, written to a folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const EXAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/examples/process/apus_plugin.py"
);

/// Whether there is a Python; a test that needs one is skipped where there is none.
pub fn python() -> bool {
    let found = Command::new("python3").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: there is no python3");
    }
    found
}

/// A file that can be executed.
pub fn executable(dir: &Path, name: &str, text: &str) -> PathBuf {
    let file = dir.join(name);
    fs::write(&file, text).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    file
}

/// A program in Python beside the file to copy; gives what `--plugin` names it by.
pub fn program(dir: &Path, name: &str, text: &str) -> String {
    fs::copy(EXAMPLE, dir.join("apus_plugin.py")).unwrap();
    let file = executable(dir, name, &format!("#!/usr/bin/env python3\n{text}"));
    format!("cmd:{}", file.display())
}

/// The blocks of a language in the page about processes.
pub fn blocks(page: &str, language: &str) -> Vec<String> {
    let begins = format!("```{language}\n");
    let blocks = page.split(&begins).skip(1);
    blocks
        .map(|rest| rest.split("\n```").next().unwrap_or_default().to_owned())
        .collect()
}

/// The page about processes.
pub fn page() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/process-plugins.md");
    fs::read_to_string(page).unwrap()
}
