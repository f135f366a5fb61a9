//! Reads JSON files: an array of rows, or rows one after another.
//!
//! The scanner follows only brackets and strings to find the end of a row, so that no more than one row
//! is in memory. Then serde checks the row.

use super::super::{Record, RecordIter, bytes, record};
use super::until_error;
use anyhow::{Context, Result, bail};
use serde::de::IgnoredAny;
use std::{io::BufRead, sync::Arc};

/// The rows of a JSON file.
pub fn json(reader: Box<dyn BufRead + Send>, source: Arc<str>) -> RecordIter {
    let mut file = Scanner {
        reader,
        source,
        line: 1,
        column: 0,
        state: ScanState::Start,
    };
    until_error(move || file.next().transpose())
}

/// The position of the scanner in the file.
#[derive(Clone, Copy, PartialEq)]
enum ScanState {
    /// At the beginning.
    Start,
    /// After `[`.
    Opened,
    /// After a row of an array.
    InArray,
    /// Among rows one after another.
    Sequence,
    /// After `]`.
    Closed,
}

struct Scanner {
    reader: Box<dyn BufRead + Send>,
    source: Arc<str>,
    line: usize,
    /// The number of bytes of the line that were read.
    column: usize,
    state: ScanState,
}

impl Scanner {
    /// Reads the next row.
    fn next(&mut self) -> Result<Option<Record>> {
        if self.state == ScanState::Start {
            self.skip_byte_order_mark()?;
            self.state = match self.peek()? {
                Some(b'[') => {
                    self.take(1);
                    ScanState::Opened
                }
                _ => ScanState::Sequence,
            };
        }
        let next = self.peek()?;
        match (self.state, next) {
            (ScanState::Sequence | ScanState::Closed, None) => Ok(None),
            (ScanState::Closed, Some(_)) => {
                bail!(
                    "{}: text after the end of the array of rows",
                    self.location()
                )
            }
            (_, None) => bail!(
                "{}: the file ends inside its array of rows",
                self.location()
            ),
            (ScanState::Opened | ScanState::InArray, Some(b']')) => {
                self.take(1);
                self.state = ScanState::Closed;
                self.next()
            }
            (ScanState::InArray, Some(b',')) => {
                self.take(1);
                self.peek()?;
                self.row().map(Some)
            }
            (ScanState::InArray, Some(_)) => bail!(
                "{}: expected `,` or `]` after a row, found `{}`",
                self.location(),
                self.glimpse(1)?
            ),
            _ => {
                let row = self.row().map(Some);
                if self.state == ScanState::Opened {
                    self.state = ScanState::InArray;
                }
                row
            }
        }
    }

    /// Reads the row that begins here.
    fn row(&mut self) -> Result<Record> {
        let (line, column) = (self.line, self.column);
        if self.peek()? != Some(b'{') {
            bail!(
                "{}: expected a row, `{{\"column\": ..}}`, found `{}`",
                self.location(),
                self.glimpse(20)?
            );
        }
        let bytes = self.brackets()?;
        let text = bytes::utf8(bytes, &self.source, line, column)?;
        serde_json::from_str::<IgnoredAny>(&text)
            .map_err(|error| record::malformed(&self.source, line, &error))?;
        Ok(Record {
            source: Arc::clone(&self.source),
            line,
            text,
            format: None,
        })
    }

    /// Reads the bytes from this bracket to the one that closes it, or to the first bracket that closes another one.
    fn brackets(&mut self) -> Result<Vec<u8>> {
        let mut row = Vec::new();
        let mut open = Vec::new();
        let (mut in_text, mut escaped) = (false, false);
        loop {
            let chunk = self.fill()?;
            if chunk.is_empty() {
                return Ok(row);
            }
            let mut end = None;
            for (at, &byte) in chunk.iter().enumerate() {
                if in_text {
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => in_text = false,
                        _ => {}
                    }
                    continue;
                }
                let fits = match byte {
                    b'"' => {
                        in_text = true;
                        true
                    }
                    b'{' | b'[' => {
                        open.push(byte);
                        true
                    }
                    b'}' => open.pop() == Some(b'{'),
                    b']' => open.pop() == Some(b'['),
                    _ => true,
                };
                if open.is_empty() || !fits {
                    end = Some(at + 1);
                    break;
                }
            }
            let taken = end.unwrap_or(chunk.len());
            row.extend_from_slice(&chunk[..taken]);
            self.take(taken);
            if end.is_some() {
                return Ok(row);
            }
        }
    }

    fn fill(&mut self) -> Result<&[u8]> {
        let (source, line) = (&self.source, self.line);
        let chunk = self.reader.fill_buf();
        chunk.with_context(|| format!("{source}:{line}: reading"))
    }

    /// Passes over bytes that [`Self::fill`] gave.
    fn take(&mut self, bytes: usize) {
        let Ok(chunk) = self.reader.fill_buf() else {
            return;
        };
        let passed = &chunk[..bytes];
        self.line += passed.iter().filter(|byte| **byte == b'\n').count();
        self.column = match passed.iter().rposition(|byte| *byte == b'\n') {
            Some(last) => bytes - last - 1,
            None => self.column + bytes,
        };
        self.reader.consume(bytes);
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Result<Option<u8>> {
        loop {
            let chunk = self.fill()?;
            let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
            let Some(at) = chunk.iter().position(|byte| !space(byte)) else {
                let all = chunk.len();
                if all == 0 {
                    return Ok(None);
                }
                self.take(all);
                continue;
            };
            let found = chunk[at];
            self.take(at);
            return Ok(Some(found));
        }
    }

    /// Passes over a byte order mark.
    fn skip_byte_order_mark(&mut self) -> Result<()> {
        if self.fill()?.starts_with("\u{feff}".as_bytes()) {
            self.take("\u{feff}".len());
        }
        Ok(())
    }

    /// The next few characters, for an error.
    fn glimpse(&mut self, count: usize) -> Result<String> {
        let chunk = self.fill()?;
        let some = String::from_utf8_lossy(&chunk[..chunk.len().min(4 * count)]);
        Ok(some.chars().take(count).collect())
    }

    fn location(&self) -> String {
        format!("{}:{}", self.source, self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    /// Whatever the size of the buffer, a row is found whole.
    #[test]
    fn rows_across_the_ends_of_buffers() {
        let text = "[ {\"a\": \"]}\\\\\\\"{\", \"b\": [{}, [1]]},\n\n {\"a\": \"沐\"} ]\n";
        for size in 1..text.len() {
            let reader = BufReader::with_capacity(size, text.as_bytes());
            let rows: Vec<Record> = json(Box::new(reader), Arc::from("d"))
                .collect::<Result<_>>()
                .unwrap();
            let lines: Vec<usize> = rows.iter().map(|row| row.line).collect();
            assert_eq!(lines, [1, 3], "{size}");
            assert_eq!(rows[0].row().unwrap()["a"], "]}\\\"{");
            assert_eq!(rows[1].row().unwrap()["a"], "沐");
        }
    }

    #[test]
    fn a_wrong_bracket_ends_a_row() {
        let text = "{\"a\": [}\n{\"a\": 1}";
        let mut rows = json(Box::new(text.as_bytes()), Arc::from("d"));
        let bad = rows.next().unwrap().unwrap_err();
        assert!(bad.to_string().contains("d:1: malformed JSON"), "{bad}");
        assert!(rows.next().is_none());
    }
}
