//! The threads at a program's pipes: one writes, so that a program that does not read cannot stop the run; one reads answers;
//! one passes on what it prints on standard error.

use apus_base::lines::info;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::mpsc::Receiver;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The longest line that is read.
pub const LONGEST: u64 = 64 << 20;
/// How many lines of standard error stand in an error.
const TAIL: usize = 5;
/// The longest of these lines.
const LONGEST_SAID: u64 = 64 << 10;

/// What was read from the program.
#[derive(Debug, PartialEq)]
pub enum Line {
    /// A line, without its end.
    Whole(Vec<u8>),
    /// A line that is too long.
    TooLong,
    /// The output ended after this, which has no end of a line.
    Cut(Vec<u8>),
    /// The output ended.
    End,
}

/// The lines on standard error so far.
#[derive(Default)]
pub struct Said {
    tail: Mutex<(VecDeque<String>, bool)>,
    ended: Condvar,
}

impl Said {
    /// The last lines, which may still be on their way for so long.
    pub fn last(&self, at_most: Duration) -> Vec<String> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .ended
            .wait_timeout_while(tail, at_most, |(_, ended)| !*ended);
        let (tail, _) = waited.unwrap_or_else(PoisonError::into_inner);
        tail.0.iter().cloned().collect()
    }

    fn push(&self, line: String) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if tail.0.len() == TAIL {
            tail.0.pop_front();
        }
        tail.0.push_back(line);
    }

    fn end(&self) {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).1 = true;
        self.ended.notify_all();
    }
}

/// Writes lines until there are no more, or nobody reads them.
pub fn write(mut stdin: impl Write, lines: &Receiver<Vec<u8>>) {
    for line in lines {
        if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

/// Reads lines of at most `longest` bytes until `take` wants no more, or none comes.
pub fn read(stdout: impl Read, longest: u64, mut take: impl FnMut(Line) -> bool) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let read = stdout.by_ref().take(longest).read_until(b'\n', &mut line);
        let next = match read {
            Ok(_) if line.ends_with(b"\n") => {
                line.pop();
                Line::Whole(line)
            }
            Ok(read) if read as u64 == longest => Line::TooLong,
            _ if line.is_empty() => Line::End,
            _ => Line::Cut(line),
        };
        let goes_on = matches!(next, Line::Whole(_));
        if !take(next) || !goes_on {
            return;
        }
    }
}

/// Tells people what the program says, and keeps the last of it.
pub fn pass_on(stderr: impl Read, name: &str, said: &Said) {
    let mut stderr = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match stderr
            .by_ref()
            .take(LONGEST_SAID)
            .read_until(b'\n', &mut line)
        {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        info!("{name}: {line}");
        said.push(line);
    }
    said.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_or_said_to_be_not() {
        let lines = |bytes: &[u8]| {
            let mut found = Vec::new();
            read(bytes, 4, |line| {
                found.push(line);
                true
            });
            found
        };
        let whole = |text: &str| Line::Whole(text.into());
        assert_eq!(lines(b""), [Line::End]);
        assert_eq!(
            lines(b"a\n\nb\n"),
            [whole("a"), whole(""), whole("b"), Line::End]
        );
        assert_eq!(lines(b"abc\nd"), [whole("abc"), Line::Cut(b"d".into())]);
        assert_eq!(lines(b"a\nabcd\n"), [whole("a"), Line::TooLong]);
    }
}
