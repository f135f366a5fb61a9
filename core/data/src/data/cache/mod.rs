//! A cache of prepared data, whose keys are hashes of everything that went into the data.
//!
//! The key is a SHA-256 over everything that the result depends on: the rows themselves (file, line and
//! text, after sampling and splitting), the flags of data and template, the files they name, the dialect, the
//! tokenizer's and template's files, the date in the system message, plugins by their own SHA-256, and
//! the version of Apus. So a change never makes an entry wrong: what is prepared
//! after it has another key. An entry is written under another name first and renamed, and its contents are
//! checked against their hash when it is read.

mod entry;

use super::{file::Record, prepare::Dataset};
use anyhow::{Context, Result};
use apus_base::checksums::hex;
use apus_base::lines::{info, warning};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{env, fs, path::Path, path::PathBuf, sync::Arc};

/// The environment variable for the folder of all caches of Apus.
pub const CACHE_VARIABLE: &str = "APUS_CACHE";
/// The version of the entries; it is raised when preparation gives another result for the same input.
const LAYOUT: &str = concat!("6 ", env!("CARGO_PKG_VERSION"));

/// The folder of the cache: `$APUS_CACHE/data`, or `apus/data` in the user's cache folder.
///
/// # Errors
/// Neither that variable nor a home directory is known.
pub fn folder() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(dir) = set(CACHE_VARIABLE) {
        return Ok(PathBuf::from(dir).join("data"));
    }
    let caches = match set("XDG_CACHE_HOME") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let home = env::home_dir();
            let home = home.context("load_from_cache_file: no home directory; set APUS_CACHE")?;
            home.join(if cfg!(target_os = "macos") {
                "Library/Caches"
            } else {
                ".cache"
            })
        }
    };
    Ok(caches.join("apus").join("data"))
}

/// A hash over settings and files, in the order in which they are given.
#[derive(Clone)]
pub struct Fingerprint(Sha256);

impl Default for Fingerprint {
    fn default() -> Self {
        Self::new()
    }
}

impl Fingerprint {
    /// A hash over the version of Apus alone.
    pub fn new() -> Self {
        let mut new = Self::blank();
        new.text(LAYOUT);
        new
    }

    /// A hash over nothing.
    pub fn blank() -> Self {
        Self(Sha256::new())
    }

    /// Adds a text with its length, so that texts cannot run into each other.
    pub fn text(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    /// Adds the content of a file, or that there is no such file.
    pub fn file(&mut self, path: &Path) -> Result<()> {
        match fs::read(path) {
            Ok(bytes) => {
                self.0.update((bytes.len() as u64).to_le_bytes());
                self.0.update(&bytes);
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.text("no file"),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        }
        Ok(())
    }

    /// Adds flags with their values, and the content of files that a value names.
    pub fn flags<'a>(
        &mut self,
        flags: impl IntoIterator<Item = (&'a str, &'a Value)>,
    ) -> Result<()> {
        for (name, value) in flags {
            self.text(name);
            self.text(&value.to_string());
            self.files_of(value)?;
        }
        Ok(())
    }

    fn files_of(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::String(text) if Path::new(text).is_file() => self.file(Path::new(text)),
            Value::Array(items) => items.iter().try_for_each(|item| self.files_of(item)),
            Value::Object(fields) => fields.values().try_for_each(|item| self.files_of(item)),
            _ => Ok(()),
        }
    }

    /// The hash in hexadecimal.
    pub fn hex(self) -> String {
        hex(&self.0.finalize())
    }

    /// Adds bytes whose number is fixed.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// The cache of prepared data for some settings.
pub struct DataCache {
    folder: PathBuf,
    settings: Fingerprint,
}

impl DataCache {
    /// The cache in a folder, for these settings.
    pub fn new(folder: PathBuf, settings: Fingerprint) -> Self {
        Self { folder, settings }
    }

    /// The entry for these records.
    pub fn path(&self, records: &[Record]) -> PathBuf {
        let mut key = self.settings.clone();
        let mut source: Option<&Arc<str>> = None;
        let mut format: Option<&Arc<str>> = None;
        for record in records {
            if format != record.format.as_ref() {
                format = record.format.as_ref();
                key.text("format");
                key.text(format.map_or("", |format| format));
            }
            if source != Some(&record.source) {
                key.text(&record.source);
                source = Some(&record.source);
            }
            key.0.update((record.line as u64).to_le_bytes());
            key.text(&record.text);
        }
        self.folder.join(format!("{}.safetensors", key.hex()))
    }

    /// Reads the entry for these records, or prepares them with `anew` and writes the entry. If the cache cannot be read or
    /// written, a warning says so and the run goes on.
    pub fn get_or(
        &self,
        records: &[Record],
        anew: impl FnOnce() -> Result<Dataset>,
    ) -> Result<Dataset> {
        let path = self.path(records);
        if path.exists() {
            match entry::read(&path, records) {
                Ok(dataset) => {
                    info!("data: {} rows from {}", records.len(), path.display());
                    return Ok(dataset);
                }
                Err(error) => warning!("{error:#}; the data is prepared anew"),
            }
        }
        let dataset = anew()?;
        match entry::write(&path, &dataset) {
            Ok(()) => info!("data: kept in {}", path.display()),
            Err(error) => warning!("prepared data is not kept: {error:#}"),
        }
        Ok(dataset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Encoded;
    use crate::data::Report;

    fn record(line: usize, text: &str) -> Record {
        Record {
            source: "a.jsonl".into(),
            line,
            text: text.to_owned(),
            format: None,
        }
    }

    fn dataset(records: &[Record]) -> Dataset {
        let sample = |channel: Option<&str>| Encoded {
            input_ids: vec![1, 200_000, 3],
            labels: vec![-100, 7, 3],
            weights: vec![0.0, 0.1, 2.5],
            channel: channel.map(str::to_owned),
            columns: channel.map(|name| format!(r#"{{"score":"{name}"}}"#).into()),
        };
        Dataset {
            samples: vec![sample(None), sample(Some("math"))],
            records: vec![0, 1],
            locations: records.iter().map(Record::location).collect(),
            packs: None,
            report: Report::default(),
        }
    }

    #[test]
    fn what_was_kept_comes_back_and_a_broken_entry_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DataCache::new(dir.path().join("x/data"), Fingerprint::new());
        let records = [record(1, "{}"), record(5, "{\"a\": 1}")];
        let found = cache.get_or(&records, || Ok(dataset(&records))).unwrap();
        let again = cache.get_or(&records, || panic!("a hit was expected"));
        assert_eq!(again.unwrap(), found);

        let path = cache.path(&records);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, &bytes).unwrap();
        let error = format!("{:#}", entry::read(&path, &records).unwrap_err());
        assert!(error.contains("hash"), "{error}");
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let anew = cache.get_or(&records, || Ok(dataset(&records))).unwrap();
        assert_eq!(anew, found);
        assert!(entry::read(&path, &records).is_ok());
    }

    #[test]
    fn everything_that_matters_has_a_key_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("scale.json");
        let name = Value::from(file.display().to_string());
        let key = |content: &str, records: &[Record]| {
            fs::write(&file, content).unwrap();
            let mut settings = Fingerprint::new();
            settings.flags([("loss_scale", &name)]).unwrap();
            DataCache::new(dir.path().to_owned(), settings).path(records)
        };
        let of_format = |format: &str| Record {
            format: Some(format.into()),
            ..record(1, "{}")
        };
        let one = key("{}", &[record(1, "{}")]);
        assert_eq!(one, key("{}", &[record(1, "{}")]));
        for other in [
            key("{\"a\": [2]}", &[record(1, "{}")]),
            key("{}", &[record(2, "{}")]),
            key("{}", &[record(1, "{ }")]),
            key("{}", &[record(1, "{}"), record(2, "{}")]),
            key("{}", &[of_format(r#"{"name":"a"}"#)]),
            key("{}", &[of_format(r#"{"name":"a","b":1}"#)]),
        ] {
            assert_ne!(one, other);
        }
    }
}
