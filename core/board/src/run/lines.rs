//! Reads a growing file of lines: each time only the part after the last offset.
//!
//! A run may be killed in the middle of a line, and a page reads while the run writes. A last line without a newline is
//! used only if it is complete, otherwise it is left for the next time. A line that cannot be used is counted and
//! skipped.

use super::folder::{FileFacts, Folder};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::time::Instant;

/// The greatest length of a line. A run writes no longer ones.
const LONGEST: u64 = 16 << 20;

/// How far a file is read.
#[derive(Debug, Default)]
pub struct Lines {
    offset: u64,
    /// The inode of the file.
    pub file: u64,
    /// How many lines could not be used.
    pub bad: u64,
    /// Why the last attempt to read the file failed.
    pub trouble: Option<String>,
    /// Whether the time ended before all of the file was read.
    pub unread: bool,
}

impl Lines {
    /// Hands every new line to `take`, which returns whether it could be used, until the time ends. If the file was
    /// replaced or is shorter than before, `target` is reset and the file is read from its beginning.
    pub fn read<T: Default>(
        &mut self,
        (folder, name): (&Folder, &str),
        until: Option<Instant>,
        target: &mut T,
        take: impl Fn(&mut T, &str) -> bool,
    ) {
        self.unread = false;
        let read = match folder.file(name) {
            Ok(Some(file)) => self.try_read(file, until, target, take),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        self.trouble = read.err().map(|error| error.to_string());
    }

    fn try_read<T: Default>(
        &mut self,
        (mut file, facts): (File, FileFacts),
        until: Option<Instant>,
        target: &mut T,
        take: impl Fn(&mut T, &str) -> bool,
    ) -> io::Result<()> {
        if self.offset > 0 && (facts.number != self.file || facts.len < self.offset) {
            *self = Self::default();
            *target = T::default();
        }
        self.file = facts.number;
        if facts.len == self.offset {
            return Ok(());
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut reader).take(LONGEST).read_until(b'\n', &mut line)? as u64;
            if read == 0 {
                return Ok(());
            }
            let whole = line.ends_with(b"\n") || read == LONGEST;
            let text = String::from_utf8_lossy(&line);
            let text = text.trim();
            let used = text.is_empty() || take(target, text);
            if !whole && (!used || text.is_empty()) {
                return Ok(());
            }
            self.offset += read;
            self.bad += u64::from(!used);
            if until.is_some_and(|until| Instant::now() >= until) {
                self.unread = true;
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use std::path::Path;

    /// Reads what is new; lines are usable if they end in `;`.
    fn read(lines: &mut Lines, path: &Path, seen: &mut Vec<String>) {
        read_until(lines, path, seen, None);
    }

    fn read_until(lines: &mut Lines, path: &Path, seen: &mut Vec<String>, until: Option<Instant>) {
        let folder = Folder::at(path.parent().unwrap()).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        lines.read((&folder, name), until, seen, |seen, line| {
            let good = line.ends_with(';');
            if good {
                seen.push(line.to_owned());
            }
            good
        });
    }

    #[test]
    fn only_what_is_new_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        read(&mut lines, &path, &mut seen);
        assert!(lines.trouble.is_none(), "a missing file is no trouble");
        fs::write(&path, "a;\nbroken\n\nb").unwrap();
        read(&mut lines, &path, &mut seen);
        assert_eq!((seen.as_slice(), lines.bad), (&["a;".to_owned()][..], 1));
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        write!(file, "b;\nc;").unwrap();
        read(&mut lines, &path, &mut seen);
        assert_eq!(seen, ["a;", "bb;", "c;"], "a whole last line needs no end");
        write!(file, "\nd").unwrap();
        read(&mut lines, &path, &mut seen);
        assert_eq!((seen.len(), lines.bad), (3, 1));
    }

    #[test]
    fn a_file_that_was_replaced_is_read_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        fs::write(&path, "a;\nb;\n").unwrap();
        read(&mut lines, &path, &mut seen);
        fs::write(&path, "c;\n").unwrap();
        read(&mut lines, &path, &mut seen);
        assert_eq!(seen, ["c;"]);
    }

    #[test]
    fn a_long_file_is_read_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        fs::write(&path, "a;\nb;\n").unwrap();
        let now = Some(Instant::now());
        read_until(&mut lines, &path, &mut seen, now);
        assert!(lines.unread && seen == ["a;"], "{seen:?}");
        read(&mut lines, &path, &mut seen);
        assert!(!lines.unread && seen == ["a;", "b;"], "{seen:?}");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, link) = (dir.path().join("secret"), dir.path().join("link"));
        fs::write(&secret, "a;\n").unwrap();
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        let (mut lines, mut seen) = (Lines::default(), Vec::new());
        read(&mut lines, &link, &mut seen);
        assert!(seen.is_empty());
        assert_eq!(lines.trouble.as_deref(), Some("is not a regular file"));
    }
}
