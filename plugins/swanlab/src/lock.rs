//! Who works on a run's folder: one run or one command at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

/// The folder is taken as long as this lives, and no longer than its process does.
pub struct Lock {
    _file: Option<File>,
}

impl Lock {
    /// Takes a folder; `None` if somebody else has it. Where the file system knows no locks, everybody may.
    pub fn take(dir: &Path) -> Option<Self> {
        let dir = dir.join("debug");
        let _ = fs::create_dir_all(&dir);
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(dir.join("lock"));
        let Ok(file) = file else {
            return Some(Self { _file: None });
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            _ => Some(Self { _file: Some(file) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path());
        assert!(first.is_some());
        assert!(Lock::take(dir.path()).is_none());
        drop(first);
        assert!(Lock::take(dir.path()).is_some());
    }
}
