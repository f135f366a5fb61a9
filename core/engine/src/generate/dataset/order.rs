//! Brings lines into the order of the rows: answers end in any order, the file has that of the data.
//!
//! A line waits in memory for those before it. Whoever asks questions asks none that is [`AHEAD`] lines or more after the first one
//! that is missing, so that one long answer does not let the whole dataset wait here.

use crate::generate::results::Results;
use anyhow::Result;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// How far ahead of the first missing line a question may be asked.
pub const AHEAD: usize = 4096;

/// Writes lines to the file as soon as all lines before them are there.
pub struct InOrder {
    results: Results,
    /// The number of the first line that is missing.
    next: usize,
    waiting: BTreeMap<usize, Map<String, Value>>,
    ready: Vec<Map<String, Value>>,
    at_once: usize,
}

impl InOrder {
    /// For a file that has `lines` lines. As many as `at_once` are written together.
    pub fn new(results: Results, lines: usize, at_once: usize) -> Self {
        Self {
            results,
            next: lines,
            waiting: BTreeMap::new(),
            ready: Vec::new(),
            at_once,
        }
    }

    /// Whether a question may be asked whose answer is the line of this number.
    pub fn is_near(&self, number: usize) -> bool {
        number < self.next + AHEAD
    }

    /// How many lines are written or ready.
    pub fn lines(&self) -> usize {
        self.next
    }

    /// Takes a line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn push(&mut self, number: usize, line: Map<String, Value>) -> Result<()> {
        self.waiting.insert(number, line);
        while let Some(line) = self.waiting.remove(&self.next) {
            self.ready.push(line);
            self.next += 1;
        }
        match self.ready.len() >= self.at_once {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Writes what is ready. What waits for lines that never came is thrown away; it is answered anew when the file goes on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        match self.ready.is_empty() {
            true => Ok(()),
            false => self.results.write(self.ready.drain(..)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_have_the_order_of_rows_and_are_written_as_many_at_a_time_as_wanted() {
        for (at_once, expected) in [
            (1, [0, 0, 3, 4, 4, 6, 6]),
            (2, [0, 0, 3, 3, 3, 6, 6]),
            (usize::MAX, [0, 0, 0, 0, 0, 0, 6]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.jsonl");
            let (results, lines) = Results::go_on(&path, &mut |_, _| Ok(())).unwrap();
            let mut order = InOrder::new(results, lines, at_once);
            let mut written = Vec::new();
            let count = || std::fs::read_to_string(&path).unwrap().lines().count();
            for number in [2, 1, 0, 3, 5, 4].map(Some).into_iter().chain([None]) {
                match number {
                    Some(number) => {
                        let line = Map::from_iter([("n".to_owned(), json!(number))]);
                        order.push(number, line).unwrap();
                    }
                    None => order.flush().unwrap(),
                }
                written.push(count());
            }
            assert_eq!(written, expected, "{at_once}");
            let text = std::fs::read_to_string(&path).unwrap();
            let all: String = (0..6).map(|n| format!("{{\"n\":{n}}}\n")).collect();
            assert_eq!(text, all);
        }
    }

    #[test]
    fn nothing_is_asked_far_ahead_of_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jsonl");
        let (results, _) = Results::go_on(&path, &mut |_, _| Ok(())).unwrap();
        let mut order = InOrder::new(results, 3, 1);
        assert!(order.is_near(2 + AHEAD) && !order.is_near(3 + AHEAD));
        order.push(4, Map::new()).unwrap();
        assert!(!order.is_near(3 + AHEAD));
        order.push(3, Map::new()).unwrap();
        assert!(order.is_near(4 + AHEAD) && order.lines() == 5);
    }
}
