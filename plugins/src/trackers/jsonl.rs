//! `logging.jsonl` in the run's folder, with ms-swift's keys: one line per log, then a summary.

use apus_sdk::{EndState, Error, Result, RunInfo, Tracker, register};
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::Write;

apus_sdk::options! {
    struct Jsonl {}
    state {
        file: Option<File>,
    }
}

impl Jsonl {
    fn write(&mut self, values: &Map<String, Value>) -> Result<()> {
        let file = self
            .file
            .as_mut()
            .ok_or_else(|| Error::new("log before start"))?;
        let mut line = serde_json::to_string(values)?;
        line.push('\n');
        file.write_all(line.as_bytes())?;
        Ok(())
    }
}

impl Tracker for Jsonl {
    fn start(&mut self, run: &RunInfo) -> Result<()> {
        let path = run.dir.join("logging.jsonl");
        let file = OpenOptions::new().create(true).append(true).open(&path);
        self.file = Some(file.map_err(|e| Error::new(format!("{}: {e}", path.display())))?);
        Ok(())
    }

    fn log(&mut self, _step: u64, values: &Map<String, Value>) -> Result<()> {
        self.write(values)
    }

    fn finish(&mut self, end: &EndState) -> Result<()> {
        match end {
            EndState::Finished(summary) => self.write(summary),
            EndState::Interrupted | EndState::Crashed(_) => Ok(()),
        }
    }
}

register! {
    /// Writes logging.jsonl, one JSON object a line, with ms-swift's keys.
    Tracker, "jsonl", Jsonl
}
