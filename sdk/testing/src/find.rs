//! Finds the trainer and the library that is tested.

use crate::Error;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX, EXE_SUFFIX};
use std::env::{self, VarError};
use std::path::{Path, PathBuf};

/// The binary of Apus.
pub fn apus() -> Result<PathBuf, Error> {
    if let Some(named) = env::var_os("APUS") {
        let named = PathBuf::from(named);
        return match named.is_file() {
            true => Ok(named),
            false => Err(Error(format!(
                "the environment variable APUS names {}, where there is no file",
                named.display()
            ))),
        };
    }
    let name = format!("apus{EXE_SUFFIX}");
    let folders = folder_of_test()?.parent().map(Path::to_owned);
    let path = env::var_os("PATH").unwrap_or_default();
    folders
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join(&name))
        .find(|file| file.is_file())
        .ok_or_else(|| {
            Error(
                "there is no apus: not in the target folder of this test and not in the PATH. Install it, or name the binary \
                 by the environment variable APUS; in a checkout of Apus, `cargo build` makes it"
                    .to_owned(),
            )
        })
}

/// The library of the crate whose test this process is.
pub fn library() -> Result<PathBuf, Error> {
    let name = env::var("CARGO_PKG_NAME").map_err(|error| match error {
        VarError::NotPresent => {
            Error("CARGO_PKG_NAME is not set; start the test with cargo".to_owned())
        }
        other => Error(other.to_string()),
    })?;
    let name = name.replace('-', "_");
    let test = env::current_exe()?;
    let test = test.file_stem().unwrap_or_default().to_string_lossy();
    if test.rsplit_once('-').is_some_and(|(of, _)| of == name) {
        return Err(Error(format!(
            "this test stands in the library {name} itself, which cargo does not build as a plugin for it; put it into the folder \
             tests of the crate"
        )));
    }
    let library = folder_of_test()?.join(format!("{DLL_PREFIX}{name}{DLL_SUFFIX}"));
    match library.is_file() {
        true => Ok(library),
        false => Err(Error(format!(
            "{}: there is no such library; a plugin has crate-type = [\"cdylib\"] under [lib] in its Cargo.toml",
            library.display()
        ))),
    }
}

fn folder_of_test() -> Result<PathBuf, Error> {
    let test = env::current_exe()?;
    Ok(test.parent().map(Path::to_owned).unwrap_or_default())
}
