//! `apus plugin install`: a library that is here, a crate that is built here, or an entry of an index.
//!
//! Nothing of a library runs before it is used: it is looked at as a file. Building runs what cargo runs, so that it is asked for.

mod build;
mod entry;
mod index;

pub use entry::{Entry, PLATFORM};
pub use index::{INDEX_VARIABLE, Index};

use anyhow::{Context, Result, ensure};
use apus_base::checksums::hex;
use apus_components::plugin::inspect;
use apus_components::plugin::installed::{self, Installed, PluginHome};
use apus_sdk::errln;
use entry::From;
use sha2::{Digest, Sha256};
use std::path::Path;

/// What is to be installed.
pub struct Wanted<'a> {
    /// A library, the folder of a crate, or a name in an index. A path that exists comes first.
    pub what: &'a str,
    /// The name to install it under, in place of that of the library or crate.
    pub name: Option<&'a str>,
    /// The index.
    pub index: Option<&'a str>,
    /// Asks a person whether something may be done.
    pub may: &'a dyn Fn(&str) -> Result<()>,
}

/// Installs a plugin and gives the record of it.
///
/// # Errors
/// It cannot be had, is no plugin for this machine and SDK, is another one than the index says, or building was not allowed. What was
/// installed before is as it was then.
pub fn install(home: &PluginHome, wanted: &Wanted) -> Result<Installed> {
    let path = Path::new(wanted.what);
    if path.is_dir() {
        return folder(home, path, wanted);
    }
    if path.symlink_metadata().is_ok() {
        return file(home, path, wanted);
    }
    ensure!(
        installed::is_name(wanted.what),
        "{}: there is no such file or folder, and it is no name of a plugin",
        wanted.what
    );
    ensure!(
        wanted.name.is_none(),
        "--name is for libraries and crates; a plugin of an index keeps its name"
    );
    let index = Index::open(wanted.index.with_context(|| {
        format!(
            "{}: there is no such file or folder; a name is looked up in an index: give one with --index, or in {INDEX_VARIABLE}",
            wanted.what
        )
    })?)?;
    let entry = index.entry(&installed::checked(wanted.what)?)?;
    from_index(home, &index, &entry, wanted.may)
        .with_context(|| format!("{} of {}", entry.name, index.label()))
}

fn file(home: &PluginHome, path: &Path, wanted: &Wanted) -> Result<Installed> {
    let name = match wanted.name {
        Some(name) => installed::checked(name)?,
        None => installed::name_of(path)?,
    };
    let bytes = inspect::read(path)?;
    let origin = path
        .canonicalize()
        .with_context(|| path.display().to_string())?;
    let record = Installed {
        name,
        origin: origin.display().to_string(),
        ..Installed::default()
    };
    home.put(path, &bytes, record)
}

fn folder(home: &PluginHome, path: &Path, wanted: &Wanted) -> Result<Installed> {
    ensure!(
        path.join("Cargo.toml").is_file(),
        "{}: this is a folder without a Cargo.toml, expected a crate or a library",
        path.display()
    );
    let path = path
        .canonicalize()
        .with_context(|| path.display().to_string())?;
    (wanted.may)(&format!(
        "cargo builds {} and runs what its build scripts and macros, and those of its dependencies, do",
        path.display()
    ))?;
    let built = build::build(&path)?;
    let record = Installed {
        name: installed::checked(wanted.name.unwrap_or(&built.name))?,
        version: Some(built.version),
        licence: built.licence,
        origin: path.display().to_string(),
        ..Installed::default()
    };
    home.put(&built.file, &inspect::read(&built.file)?, record)
}

fn from_index(
    home: &PluginHome,
    index: &Index,
    entry: &Entry,
    may: &dyn Fn(&str) -> Result<()>,
) -> Result<Installed> {
    entry.check_host()?;
    if let Some((_, before)) = home.find(&entry.name)? {
        entry.check_unchanged(&before)?;
    }
    let mut record = Installed {
        name: entry.name.clone(),
        version: Some(entry.version.clone()),
        licence: Some(entry.licence.clone()),
        kinds: entry.kinds.clone(),
        index: Some(index.label().to_owned()),
        ..Installed::default()
    };
    match entry.from()? {
        From::Library(library) => {
            let (origin, bytes) = index.library(&library.url)?;
            let found = hex(&Sha256::digest(&bytes));
            ensure!(
                library.sha256.eq_ignore_ascii_case(&found),
                "the sha256 of {origin} is {found}, the index says {}. It was not installed: the file or the index has changed; ask whoever keeps the index",
                library.sha256
            );
            let shown = Path::new(&origin).to_owned();
            record.origin = origin;
            home.put(&shown, &bytes, record)
        }
        From::Crate {
            git,
            commit,
            folder,
        } => {
            may(&format!(
                "git clones {git}, cargo builds {} at {commit} and runs what its build scripts and macros, and those of its dependencies, do",
                folder.unwrap_or("it")
            ))?;
            errln!("cloning {git}");
            let clone = build::clone(git, Some(commit), "https")?;
            let built = build::build(&build::inside(clone.path(), folder.unwrap_or("."))?)?;
            ensure!(
                installed::checked(&built.name)? == entry.name && built.version == entry.version,
                "the crate at {commit} is {} {}, the index says {} {}",
                built.name,
                built.version,
                entry.name,
                entry.version
            );
            record.origin = format!("git+{git}#{commit}");
            record.commit = Some(commit.to_owned());
            home.put(&built.file, &inspect::read(&built.file)?, record)
        }
    }
}
