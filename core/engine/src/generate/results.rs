//! The file of answers: a line each, written as soon as it is there, behind what the file holds already.

use super::Answer;
use anyhow::{Context, Result};
use apus_sdk::json;
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The file.
pub(super) struct Results {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Results {
    /// Opens the file, with its folder.
    pub fn open(path: &Path) -> Result<Self> {
        let written = || format!("{}: cannot be written", path.display());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(written)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::new(file.with_context(written)?),
        })
    }

    /// Adds a line.
    pub fn write(&mut self, line: Map<String, Value>) -> Result<()> {
        writeln!(self.file, "{}", json::text(&Value::Object(line)))
            .and_then(|()| self.file.flush())
            .with_context(|| format!("{}: cannot be written", self.path.display()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// What a line says was answered: the text of the message, or all of it where the message has none.
pub(super) fn response(answer: &Answer) -> Value {
    let text = answer.message.text().unwrap_or(&answer.text);
    text.into()
}
