//! The file of answers. Each answer is appended as a line as soon as it is complete.

use super::Answer;
use anyhow::{Context, Result};
use apus_sdk::json;
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The open file of answers.
pub(super) struct Results {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Results {
    /// Opens the file for appending, and creates its folder.
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

    /// Appends a line.
    pub fn write(&mut self, line: Map<String, Value>) -> Result<()> {
        writeln!(self.file, "{}", json::text(&Value::Object(line)))
            .and_then(|()| self.file.flush())
            .with_context(|| format!("{}: cannot be written", self.path.display()))
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The response in a line: the text of the message, or the whole generated text if the message has none.
pub(super) fn response(answer: &Answer) -> Value {
    let text = answer.message.text().unwrap_or(&answer.text);
    text.into()
}
