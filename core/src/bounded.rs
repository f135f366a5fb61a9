//! Small text files that are read whole: regular files, and no larger than such a file can be meant to be.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// More than any configuration, index or tokenizer configuration holds.
const MOST: u64 = 64 << 20;

/// The text of a file.
///
/// # Errors
/// It cannot be read, is a device, a pipe or a folder, or is larger than 64 MiB; the error names it.
pub fn read(path: &Path) -> Result<String> {
    let place = || path.display().to_string();
    let open = || -> Result<String> {
        // Opening a pipe would wait for its other end.
        ensure!(std::fs::metadata(path)?.is_file(), "is no regular file");
        let mut text = String::new();
        let read = File::open(path)?.take(MOST + 1).read_to_string(&mut text)?;
        ensure!(
            read as u64 <= MOST,
            "is larger than {} MiB, which such a file never is",
            MOST >> 20
        );
        Ok(text)
    };
    open().with_context(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_small_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(read(&path).unwrap(), "{}");
        File::create(&path).unwrap().set_len(MOST + 1).unwrap();
        let error = |path: &Path| format!("{:#}", read(path).unwrap_err());
        assert!(error(&path).contains("a.json: is larger than 64 MiB"));
        assert!(error(dir.path()).contains("no regular file"));
        assert!(error(&dir.path().join("none")).contains("none: No such file"));
        #[cfg(unix)]
        assert!(error(Path::new("/dev/zero")).contains("/dev/zero: is no regular file"));
    }
}
