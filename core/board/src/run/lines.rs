//! A file of lines that grows while it is read: only what is new is read, by offset.
//!
//! A run may be killed in the middle of a line, and a page looks while the run writes. A last line without an
//! end is taken only if it is whole by itself, otherwise it is left for the next time. A line that cannot be
//! used is counted and skipped.

use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

/// A line longer than this is not one that a run wrote.
const LONGEST: u64 = 16 << 20;

/// Where reading of one file stands.
#[derive(Debug, Default)]
pub struct Lines {
    offset: u64,
    /// Which file it is.
    pub file: u64,
    /// Lines that could not be used.
    pub bad: u64,
    /// Why the file could not be read the last time.
    pub trouble: Option<String>,
}

impl Lines {
    /// Hands every new line to `take`, which says whether it could be used. Where the file is another one than
    /// before, or shorter, `target` is made anew and the file is read from its beginning.
    pub fn read<T: Default>(
        &mut self,
        path: &Path,
        target: &mut T,
        take: impl Fn(&mut T, &str) -> bool,
    ) {
        let read = self.try_read(path, target, take);
        self.trouble = read.err().map(|error| error.to_string());
    }

    fn try_read<T: Default>(
        &mut self,
        path: &Path,
        target: &mut T,
        take: impl Fn(&mut T, &str) -> bool,
    ) -> io::Result<()> {
        let Some((mut file, metadata)) = open(path)? else {
            return Ok(());
        };
        let number = file_number(&metadata);
        if self.offset > 0 && (number != self.file || metadata.len() < self.offset) {
            *self = Self::default();
            *target = T::default();
        }
        self.file = number;
        if metadata.len() == self.offset {
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
        }
    }
}

/// Opens a regular file; nothing if there is none. A link or a pipe in a run's folder is not followed: it
/// could lead out of it, or never end.
///
/// # Errors
/// It is there and cannot be opened.
pub fn open(path: &Path) -> io::Result<Option<(File, Metadata)>> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if !metadata.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    Ok(Some((file, metadata)))
}

#[cfg(unix)]
fn file_number(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn file_number(_: &Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    /// Reads what is new; lines are usable if they end in `;`.
    fn read(lines: &mut Lines, path: &Path, seen: &mut Vec<String>) {
        lines.read(path, seen, |seen, line| {
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
