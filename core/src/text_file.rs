//! Files of a size that a person writes: configurations, lists of options, chat templates, what lies beside a model's
//! weights.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// More than this nobody writes by hand.
const MOST: u64 = 16 << 20;

/// The text of such a file; a pipe (`<(..)`) is one too. Reading ends at 16 MiB, so that what is named by mistake, a device
/// or a file of weights, fills no memory.
///
/// # Errors
/// It cannot be read, is no UTF-8, or is longer.
pub fn read(path: &Path) -> Result<String> {
    text(path, File::open(path))
}

/// As [`read`]; `None` if there is no such file.
///
/// # Errors
/// As [`read`].
pub fn read_if_there(path: &Path) -> Result<Option<String>> {
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        file => text(path, file).map(Some),
    }
}

fn text(path: &Path, file: io::Result<File>) -> Result<String> {
    let cannot = || format!("{}: cannot be read", path.display());
    let mut bytes = Vec::new();
    let file = file.with_context(cannot)?;
    file.take(MOST + 1)
        .read_to_end(&mut bytes)
        .with_context(cannot)?;
    ensure!(
        bytes.len() as u64 <= MOST,
        "{}: is longer than {} MiB, which no file of this kind is",
        path.display(),
        MOST >> 20
    );
    String::from_utf8(bytes).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "a = 1\n").unwrap();
        assert_eq!(read(&path).unwrap(), "a = 1\n");
        assert_eq!(read_if_there(&path).unwrap().unwrap(), "a = 1\n");
        assert_eq!(read_if_there(&dir.path().join("b")).unwrap(), None);
        assert!(read_if_there(dir.path()).is_err());
        std::fs::write(&path, [0xff]).unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("a: cannot be read"));
        assert!(format!("{:#}", read(dir.path()).unwrap_err()).contains("cannot be read"));
        if cfg!(target_os = "linux") {
            let error = read(Path::new("/dev/zero")).unwrap_err().to_string();
            assert!(
                error.contains("/dev/zero: is longer than 16 MiB"),
                "{error}"
            );
        }
    }
}
