//! The adapters that can answer, by name.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// The name of the model without an adapter.
pub const BASE: &str = "base";

/// An adapter's folder and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedAdapter {
    /// What it is called by.
    pub name: String,
    /// Its folder.
    pub dir: PathBuf,
}

impl NamedAdapter {
    /// Reads `DIR`, which is called by its last part, or `NAME=DIR`.
    ///
    /// # Errors
    /// A folder that has no name.
    pub fn read(word: &str) -> Result<Self> {
        let named = word.split_once('=').filter(|(name, _)| {
            !name.is_empty() && !name.contains(['/', '\\']) && !Path::new(word).exists()
        });
        if let Some((name, dir)) = named {
            return Ok(Self {
                name: name.to_owned(),
                dir: dir.into(),
            });
        }
        let dir = Path::new(word);
        let last = |dir: &Path| {
            dir.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        let name = last(dir).or_else(|| last(&dir.canonicalize().ok()?));
        Ok(Self {
            name: name.with_context(|| {
                format!("adapters: {word} has no name; give it one, NAME={word}")
            })?,
            dir: dir.to_owned(),
        })
    }

    /// Reads several, which have names of their own.
    ///
    /// # Errors
    /// A name that two have, or that is the base's.
    pub fn read_all(words: &[String]) -> Result<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for word in words {
            let new = Self::read(word)?;
            let (name, dir) = (&new.name, new.dir.display());
            ensure!(
                name != BASE,
                "adapters: {dir} is called {BASE}, as the model without an adapter; name it, NAME={dir}"
            );
            if let Some(other) = all.iter().find(|other| other.name == *name) {
                bail!(
                    "adapters: {} and {dir} are both called {name}; name them, NAME={dir}",
                    other.dir.display()
                );
            }
            all.push(new);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_have_names() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a=b");
        std::fs::create_dir(&odd).unwrap();
        let odd = odd.display().to_string();
        for (word, name, folder) in [
            (
                "runs/v0/checkpoint-8",
                "checkpoint-8",
                "runs/v0/checkpoint-8",
            ),
            ("runs/v0/", "v0", "runs/v0/"),
            ("mew=runs/v0", "mew", "runs/v0"),
            ("runs/x=y", "x=y", "runs/x=y"),
            ("=v0", "=v0", "=v0"),
            (odd.as_str(), "a=b", odd.as_str()),
        ] {
            let found = NamedAdapter::read(word).unwrap();
            assert_eq!(
                (found.name.as_str(), found.dir.as_path()),
                (name, Path::new(folder))
            );
        }
        assert_ne!(NamedAdapter::read(".").unwrap().name, ".");
        let error = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            NamedAdapter::read_all(&words).unwrap_err().to_string()
        };
        assert!(error(&["a/x", "b/x"]).contains("both called x"));
        assert!(error(&["a", "b/base"]).contains("called base"));
        assert!(error(&["/"]).contains("has no name"));
    }
}
