//! The lock of a run's folder: one run or one command works on it at a time.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

/// Holds the lock of a folder until it is dropped or its process ends.
pub struct Lock {
    _file: Option<File>,
}

impl Lock {
    /// Locks a folder; `None` if another process has locked it. On a file system without locks it always succeeds.
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
