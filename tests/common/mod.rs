//! Running the real binary and reading what it says.
#![allow(dead_code)]

pub mod crates;
pub mod orders;
pub mod plugins;
pub mod process;
pub mod training;
pub mod user;

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A plugin library that `cargo test` built beside this binary.
#[track_caller]
pub fn library(name: &str) -> PathBuf {
    let file = format!("{DLL_PREFIX}{name}{DLL_SUFFIX}");
    let path = std::env::current_exe().unwrap().with_file_name(file);
    assert!(path.is_file(), "{}: cargo did not build it", path.display());
    path
}

/// An empty folder of this name.
pub fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a folder for the test");
    dir
}

/// Runs `apus` with these words, in an environment that nothing but these variables has touched.
pub fn apus(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_apus"))
        .args(arguments)
        .env_remove("NPROC_PER_NODE")
        .env_remove("APUS_PLUGIN_PATH")
        .env_remove("SWANLAB_API_KEY")
        .env(
            "SWANLAB_ROOT",
            concat!(env!("CARGO_TARGET_TMPDIR"), "/nobody"),
        )
        .env_remove("RUST_BACKTRACE")
        .envs(environment.iter().copied())
        .output()
        .expect("the binary starts")
}

/// All that was printed.
pub fn text(output: &Output) -> String {
    let part = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    part(&output.stdout) + &part(&output.stderr)
}

/// The words of a line.
pub fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// Runs a command that has to work; gives what it printed.
#[track_caller]
pub fn works(line: &str) -> String {
    let output = apus(&words(line), &[]);
    let said = text(&output);
    assert!(output.status.success(), "apus {line}\n{said}");
    said
}

/// Runs a command that has to fail with this status and say all of these; gives what it printed.
#[track_caller]
pub fn fails(line: &str, status: i32, says: &[&str]) -> String {
    let output = apus(&words(line), &[]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(status), "apus {line}\n{said}");
    assert!(said.contains("error: "), "apus {line}\n{said}");
    assert!(!said.contains("apus has a bug"), "apus {line}\n{said}");
    for part in says {
        assert!(said.contains(part), "apus {line}\n{part:?} not in:\n{said}");
    }
    said
}
