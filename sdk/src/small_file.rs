//! Files that are read whole, up to a size that no such file exceeds.
//!
//! So a device or a file of weights that is named by mistake does not fill the memory, and neither does a download.

use crate::{Error, Result};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Which files are read, and how much of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// A file with more bytes than this is refused.
    pub bytes: u64,
    /// Whether a pipe or a device is read too. Opening a pipe waits for its other end, so that it has to be meant, as
    /// `<(..)` on a command line is.
    pub pipes: bool,
}

impl Limit {
    /// What a person writes and names: a configuration, a table of options.
    pub const WRITTEN: Self = Self {
        bytes: 16 << 20,
        pipes: true,
    };

    /// What comes with a model or a run: configurations, indices, templates.
    pub const STORED: Self = Self::of(64 << 20);

    /// A regular file of this size.
    pub const fn of(bytes: u64) -> Self {
        Self {
            bytes,
            pipes: false,
        }
    }
}

/// The text of a file.
///
/// # Errors
/// It cannot be read, is no UTF-8, is of another kind than `limit` allows, or is larger; the error names it.
pub fn text(path: &Path, limit: Limit) -> Result<String> {
    utf8(path, bytes(path, limit)?)
}

/// The text of a file; nothing if there is none.
///
/// # Errors
/// As [`text`].
pub fn text_if_there(path: &Path, limit: Limit) -> Result<Option<String>> {
    let bytes = bytes_if_there(path, limit)?;
    bytes.map(|bytes| utf8(path, bytes)).transpose()
}

fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| cannot(path, error))
}

/// The bytes of a file.
///
/// # Errors
/// As [`text`], but for what is no UTF-8.
pub fn bytes(path: &Path, limit: Limit) -> Result<Vec<u8>> {
    let kind = std::fs::metadata(path).map_err(|error| cannot(path, error))?;
    if !kind.is_file() && !limit.pipes {
        return Err(cannot(path, "it is no regular file"));
    }
    let mut bytes = Vec::new();
    let read = File::open(path)
        .and_then(|file| file.take(limit.bytes + 1).read_to_end(&mut bytes))
        .map_err(|error| cannot(path, error))?;
    if read as u64 > limit.bytes {
        let most = match limit.bytes {
            0..1_048_576 => format!("{} bytes", limit.bytes),
            bytes => format!("{} MiB", bytes >> 20),
        };
        return Err(cannot(
            path,
            format!("it is larger than {most}, which such a file never is"),
        ));
    }
    Ok(bytes)
}

/// The bytes of a file; nothing if there is none.
///
/// # Errors
/// As [`bytes`].
pub fn bytes_if_there(path: &Path, limit: Limit) -> Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        _ => bytes(path, limit).map(Some),
    }
}

fn cannot(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::new(format!("{}: cannot be read: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limit = Limit::of(10);

    fn error(path: &Path, limit: Limit) -> String {
        text(path, limit).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_small_file_is_refused() {
        let dir = std::env::temp_dir().join(format!("apus-small-file-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.json");
        std::fs::write(&path, "1234567890").unwrap();
        assert_eq!(text(&path, SMALL).unwrap(), "1234567890");
        std::fs::write(&path, "12345678901").unwrap();
        let said = error(&path, SMALL);
        assert!(
            said.ends_with(
                "a.json: cannot be read: it is larger than 10 bytes, which such a file never is"
            ),
            "{said}"
        );
        File::create(&path)
            .unwrap()
            .set_len((64 << 20) + 1)
            .unwrap();
        assert!(error(&path, Limit::STORED).contains("larger than 64 MiB"));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(error(&path, SMALL).contains("a.json: cannot be read: invalid utf-8"));
        assert_eq!(bytes(&path, SMALL).unwrap(), [0xff]);
        assert!(error(&dir, SMALL).contains("no regular file"));
        assert!(error(&dir, Limit::WRITTEN).contains("cannot be read"));
        let none = dir.join("none");
        assert!(error(&none, SMALL).contains("none: cannot be read: No such file"));
        assert_eq!(text_if_there(&none, SMALL).unwrap(), None);
        assert!(text_if_there(&dir, SMALL).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn reading_ends() {
        let zero = Path::new("/dev/zero");
        assert!(
            error(zero, Limit::STORED).contains("/dev/zero: cannot be read: it is no regular file")
        );
        assert!(
            error(zero, Limit::WRITTEN)
                .contains("/dev/zero: cannot be read: it is larger than 16 MiB")
        );
    }
}
