//! Sizes and SHA-256 of the files of a checkpoint, in a file beside them.
//!
//! A disk, a copy or an editor can change a byte unnoticed: most changed bytes of a tensor are still valid numbers.
//!
//! The sums also identify the weights, and `sha256sum` prints the same ones, so they are SHA-256 and nothing shorter.
//! Hashing an adapter with its optimizer's state takes less time than writing it. Files are hashed in parallel. A folder
//! without sums, as PEFT writes it, is read unchecked.

mod sampled;

pub use sampled::sampled;

use anyhow::{Context, Result, bail, ensure};
use apus_sdk::small_file::{self, Limit};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

/// The name of the file of sums.
pub const FILE: &str = "checksums.json";

/// The format version of the file that is written.
const VERSION: u32 = 1;

/// The sums of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checksums {
    version: u32,
    files: BTreeMap<String, Sum>,
}

/// Size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sum {
    bytes: u64,
    sha256: String,
}

impl Checksums {
    /// Computes the sums of all files in a folder.
    pub fn of(dir: &Path) -> Result<Self> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let entry = entry?;
            if entry.file_type()?.is_file() && entry.file_name() != FILE {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        let sums = names.into_par_iter().map(|name| {
            let sum = sum(&dir.join(&name))?;
            Ok((name, sum))
        });
        Ok(Self {
            version: VERSION,
            files: sums.collect::<Result<_>>()?,
        })
    }

    /// Writes the sums into their folder.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        fs::write(&path, self.text()?)
            .with_context(|| format!("{}: cannot be written", path.display()))
    }

    fn text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Reads the sums in a folder, if it has any.
    ///
    /// # Errors
    /// A file that cannot be read, or is none that this version writes.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let Some(text) = small_file::bytes_if_there(&path, Limit::STORED)? else {
            return Ok(None);
        };
        let damaged = || {
            format!(
                "{}: not as it was written; take another checkpoint",
                path.display()
            )
        };
        let sums: Self = serde_json::from_slice(&text).with_context(damaged)?;
        ensure!(
            sums.version == VERSION,
            "{}: version {} of its layout, expected {VERSION}; a newer version of Apus may have written it",
            path.display(),
            sums.version
        );
        // A name that has become another's would not be missed otherwise.
        ensure!(sums.text()?.as_bytes() == text, "{}", damaged());
        Ok(Some(sums))
    }

    /// The names of the files that have a sum.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Checks all files against their sums.
    ///
    /// # Errors
    /// A file that is missing or changed; the error names the file and the difference.
    pub fn check(&self, dir: &Path) -> Result<()> {
        self.files
            .par_iter()
            .try_for_each(|(name, expected)| expected.check(&dir.join(name)))
    }
}

impl Sum {
    fn check(&self, path: &Path) -> Result<()> {
        // The size first: it says more, and costs nothing.
        let found = match fs::metadata(path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("{}: is missing, {FILE} names it", path.display())
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        ensure!(
            found == self.bytes,
            "{}: has {found} bytes, {} were written (by {FILE}); was its copy cut?",
            path.display(),
            self.bytes
        );
        let found = sum(path)?.sha256;
        ensure!(
            found == self.sha256,
            "{}: is not as it was written: its SHA-256 is {found}, by {FILE} it was {}. A disk, a copy or a hand \
             has changed it; take another checkpoint. If the change is meant, delete {FILE}: the weights are then taken as \
             they are, and --resume_only_model true starts from them",
            path.display(),
            self.sha256
        );
        Ok(())
    }
}

/// Checks those of these files that exist against the sums in their folder, if it has any.
///
/// # Errors
/// A file that is changed.
pub fn check<'a>(dir: &Path, files: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let Some(sums) = Checksums::read(dir)? else {
        return Ok(());
    };
    for name in files {
        match sums.files.get(name) {
            Some(sum) => sum.check(&dir.join(name))?,
            None => ensure!(
                !dir.join(name).exists(),
                "{}: {FILE} beside it does not name it; it was not written with the rest. If it is meant to be \
                 there, delete {FILE}",
                dir.join(name).display()
            ),
        }
    }
    Ok(())
}

fn sum(path: &Path) -> Result<Sum> {
    let named = || format!("{}: cannot be read", path.display());
    let mut file = File::open(path).with_context(named)?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).with_context(named)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok(Sum {
        bytes,
        sha256: hex(&hash.finalize()),
    })
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "abc").unwrap();
        fs::write(dir.path().join("b"), vec![7; 3 << 20]).unwrap();
        fs::write(dir.path().join("c"), "").unwrap();
        Checksums::of(dir.path())
            .unwrap()
            .write(dir.path())
            .unwrap();
        dir
    }

    fn whole(dir: &Path) -> Result<()> {
        let sums = Checksums::read(dir)?.context("there are sums")?;
        sums.check(dir)
    }

    #[test]
    fn what_was_written_is_whole() {
        let dir = folder();
        whole(dir.path()).unwrap();
        let sums = Checksums::read(dir.path()).unwrap().unwrap();
        assert_eq!(sums.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        // As sha256sum says it.
        assert_eq!(
            sums.files["a"].sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        check(dir.path(), ["a", "b", "nothing of this name"]).unwrap();
    }

    #[test]
    fn any_bit_of_any_file_is_noticed() {
        let dir = folder();
        for name in ["a", FILE] {
            let path = dir.path().join(name);
            let bytes = fs::read(&path).unwrap();
            for bit in 0..8 * bytes.len() {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                fs::write(&path, &flipped).unwrap();
                let error = whole(dir.path()).expect_err(&format!("{name}, bit {bit}"));
                assert!(!error.to_string().is_empty());
            }
            fs::write(&path, &bytes).unwrap();
        }
        whole(dir.path()).unwrap();
    }

    #[test]
    fn what_is_missing_cut_or_new_is_named() {
        let dir = folder();
        let path = dir.path().join("b");
        fs::write(&path, vec![7; 100]).unwrap();
        let error = whole(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("b: has 100 bytes, 3145728 were written"),
            "{error}"
        );
        fs::remove_file(&path).unwrap();
        let error = whole(dir.path()).unwrap_err().to_string();
        assert!(error.contains("b: is missing"), "{error}");
        // What is not read may be missing.
        check(dir.path(), ["a"]).unwrap();
        fs::write(dir.path().join("d"), "").unwrap();
        let error = check(dir.path(), ["a", "d"]).unwrap_err().to_string();
        assert!(error.contains("does not name it"), "{error}");
    }

    #[test]
    fn a_folder_without_sums_is_read_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "abc").unwrap();
        assert_eq!(Checksums::read(dir.path()).unwrap(), None);
        check(dir.path(), ["a"]).unwrap();
    }
}
