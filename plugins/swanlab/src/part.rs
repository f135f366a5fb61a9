//! A file of a run as the sender reads it. A run that was resumed has several.

use super::framing::Reader;
use super::progress::Progress;
use super::record::{Body, Record, Start};
use super::store;
use prost::Message;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// A file that is to be sent.
pub struct Part {
    /// Its folder.
    pub dir: PathBuf,
    /// The records that are not sent yet.
    pub reader: Reader,
    /// How the run begins.
    pub start: Start,
    /// How far it was sent; set when the experiment is known.
    pub progress: Progress,
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// The one file of a run in its folder.
///
/// # Errors
/// There is none, or more than one.
pub fn file(dir: &Path) -> io::Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("run-") && name.ends_with(".swanlab") {
            found.push(dir.join(&*name));
        }
    }
    match (found.pop(), found.len()) {
        (Some(file), 0) => Ok(file),
        (None, _) => Err(invalid("holds no run-ID.swanlab".to_owned())),
        (Some(_), more) => Err(invalid(format!(
            "holds {} run-ID.swanlab, expected one",
            more + 1
        ))),
    }
}

impl Part {
    /// Opens the file in a run's folder.
    ///
    /// # Errors
    /// There is no such file, it is in another format, or does not begin as a run does.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = file(dir)?;
        let mut reader = Reader::new(File::open(path)?)?;
        let first = reader
            .next()?
            .and_then(|bytes| Record::decode(&*bytes).ok());
        match first.and_then(|record| record.body) {
            Some(Body::Start(start)) => Ok(Self {
                dir: dir.to_owned(),
                reader,
                start,
                progress: Progress::default(),
            }),
            _ => Err(invalid(
                "the file does not begin with the start of a run".to_owned(),
            )),
        }
    }
}

/// The folders of a run below these folders, oldest first.
pub fn folders(log_dirs: &[PathBuf], id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for log_dir in log_dirs {
        let entries = fs::read_dir(log_dir).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path()).filter(|dir| {
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("run-") && dir.join(store::file_name(id)).is_file()
        }));
    }
    found.sort_by_key(|dir| dir.file_name().map(ToOwned::to_owned));
    found.dedup_by_key(|dir| fs::canonicalize(&*dir).unwrap_or_else(|_| dir.clone()));
    found
}
