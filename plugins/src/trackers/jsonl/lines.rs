//! A file of lines on a disk that may be full for a while.
//!
//! A line that cannot be written waits, and is tried again with the next one. Of a line that was written in part the
//! rest follows later, so that the file never holds half a line between two whole ones. Half a line at the end of a
//! file is left by a run that was killed: it is ended or removed before anything is added.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes that wait at most. A run that logs a line of one kilobyte a second is four hours without a disk then.
const MOST: usize = 16 << 20;

/// A last line without an end is looked for in this many bytes.
const TAIL: u64 = 1 << 20;

/// Lines that are not written yet.
#[derive(Debug, Default)]
pub struct Waiting {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of the first line that are written already.
    written: usize,
    bytes: usize,
    /// Lines that there was no room for.
    pub lost: u64,
}

impl Waiting {
    /// Adds a line. If too much waits, the oldest line that was not begun is lost.
    pub fn push(&mut self, line: &str) {
        let line = format!("{line}\n").into_bytes();
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.bytes > MOST {
            let oldest = usize::from(self.written > 0);
            let Some(line) = self.lines.remove(oldest) else {
                return;
            };
            self.bytes -= line.len();
            self.lost += 1;
        }
    }

    /// Writes as much as can be written.
    ///
    /// # Errors
    /// Why not all of it could.
    pub fn write_to(&mut self, file: &mut impl Write) -> io::Result<()> {
        while let Some(line) = self.lines.front() {
            // The rest of a line in one call: whoever reads meanwhile finds whole lines.
            match file.write(&line[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.written == line.len() {
                self.bytes -= line.len();
                self.written = 0;
                self.lines.pop_front();
            }
        }
        Ok(())
    }

    /// How many lines wait.
    pub fn len(&self) -> usize {
        self.lines.len()
    }
}

/// The type of the lines of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// JSON: half a line at the end is removed.
    Json,
    /// Text: half a line at the end is ended.
    Text,
}

/// A file of lines, made when the first one comes.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    kind: Kind,
    file: Option<File>,
    /// The lines that are not written yet.
    pub waiting: Waiting,
}

impl Lines {
    /// A file of this name.
    pub fn new(path: PathBuf, kind: Kind) -> Self {
        Self {
            path,
            kind,
            file: None,
            waiting: Waiting::default(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes or mends the file, and writes what waits.
    ///
    /// # Errors
    /// Why not all of it could be written.
    pub fn write(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(open(&self.path, self.kind)?),
        };
        self.waiting.write_to(file)
    }
}

/// The file, to be added to at its end, which is the end of a line.
fn open(path: &Path, kind: Kind) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(path)?;
    let size = file.metadata()?.len();
    if size == 0 {
        return Ok(file);
    }
    let from = size.saturating_sub(TAIL);
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(from))?;
    (&mut file).take(TAIL).read_to_end(&mut tail)?;
    if tail.ends_with(b"\n") {
        return Ok(file);
    }
    let end = tail.iter().rposition(|byte| *byte == b'\n');
    let half = &tail[end.map_or(0, |end| end + 1)..];
    let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(half).is_ok();
    match (kind, end) {
        (Kind::Json, Some(end)) if !is_json() => file.set_len(from + end as u64 + 1)?,
        (Kind::Json, None) if from == 0 && !is_json() => file.set_len(0)?,
        _ => file.write_all(b"\n")?,
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    /// A disk with room for so many bytes, at each call for at most three.
    struct Disk {
        written: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room).min(3);
            if count == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.room -= count;
            self.written.extend(&bytes[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn a_disk_that_is_full_for_a_while_loses_nothing(
            steps in prop::collection::vec(("[a-z]{0,12}", 0usize..20), 1..40),
        ) {
            let mut disk = Disk { written: Vec::new(), room: 0 };
            let mut waiting = Waiting::default();
            let mut all = String::new();
            for (line, room) in steps {
                waiting.push(&line);
                all += &line;
                all.push('\n');
                disk.room = room;
                let done = waiting.write_to(&mut disk).is_ok();
                prop_assert_eq!(done, waiting.len() == 0);
                prop_assert!(all.as_bytes().starts_with(&disk.written));
            }
            disk.room = usize::MAX;
            waiting.write_to(&mut disk).unwrap();
            prop_assert_eq!(String::from_utf8(disk.written).unwrap(), all);
            prop_assert_eq!((waiting.bytes, waiting.lost), (0, 0));
        }
    }

    #[test]
    fn too_much_loses_the_oldest_but_never_half_a_line() {
        let mut disk = Disk {
            written: Vec::new(),
            room: 5,
        };
        let mut waiting = Waiting::default();
        let megabyte = "x".repeat(1 << 20);
        waiting.push("first line");
        waiting.write_to(&mut disk).unwrap_err();
        for number in 0..20 {
            waiting.push(&format!("{number} {megabyte}"));
        }
        assert!(waiting.bytes <= MOST);
        assert_eq!(waiting.len() as u64 + waiting.lost, 21);
        let mut rest = disk.written;
        waiting.write_to(&mut rest).unwrap();
        let text = String::from_utf8(rest).unwrap();
        let firsts: Vec<&str> = text.lines().map(|line| &line[..2]).collect();
        assert_eq!(firsts[..2], ["fi", "5 "]);
        assert!(text.starts_with("first line\n") && text.ends_with("x\n"));
    }

    #[test]
    fn half_a_line_is_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mended = |text: &str, kind| {
            fs::write(&path, text).unwrap();
            let mut lines = Lines::new(path.clone(), kind);
            lines.waiting.push("{}");
            lines.write().unwrap();
            fs::read_to_string(&path).unwrap()
        };
        assert_eq!(mended("{\"a\":1}\n{\"b\"", Kind::Json), "{\"a\":1}\n{}\n");
        assert_eq!(
            mended("{\"a\":1}\n{\"b\":2}", Kind::Json),
            "{\"a\":1}\n{\"b\":2}\n{}\n"
        );
        assert_eq!(mended("{\"a", Kind::Json), "{}\n");
        assert_eq!(mended("{\"a\":1}\n", Kind::Json), "{\"a\":1}\n{}\n");
        assert_eq!(mended("", Kind::Json), "{}\n");
        assert_eq!(mended("one\ntw", Kind::Text), "one\ntw\n{}\n");
    }

    #[test]
    fn a_disk_without_room_gives_its_error_and_keeps_the_line() {
        let mut lines = Lines::new("/dev/full".into(), Kind::Json);
        lines.waiting.push("{}");
        let error = lines.write().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        assert_eq!(lines.waiting.len(), 1);
    }
}
