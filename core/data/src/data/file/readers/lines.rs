//! Reads files in which each line is a row: jsonl and plain text.

use super::super::{Record, RecordIter, bytes};
use super::until_error;
use anyhow::Result;
use std::{io::BufRead, sync::Arc};

/// The rows of a file with a JSON object on each line.
pub fn jsonl(reader: Box<dyn BufRead + Send>, source: Arc<str>) -> RecordIter {
    rows(reader, source, |mut line| {
        line.truncate(line.trim_end().len());
        Ok(line)
    })
}

/// The rows of a text file: each line is a row with the column `text`, as in the `text` builder of Hugging Face's datasets.
pub fn txt(reader: Box<dyn BufRead + Send>, source: Arc<str>) -> RecordIter {
    rows(reader, source, |line| {
        Ok(format!("{{\"text\":{}}}", serde_json::to_string(&line)?))
    })
}

/// The lines that are not blank, each turned into JSON text.
fn rows(
    mut reader: Box<dyn BufRead + Send>,
    source: Arc<str>,
    json: impl Fn(String) -> Result<String> + Send + 'static,
) -> RecordIter {
    let mut number = 0;
    let mut next = move || -> Result<Option<Record>> {
        loop {
            number += 1;
            let Some(line) = bytes::line(&mut reader, &source, number)? else {
                return Ok(None);
            };
            if !line.trim().is_empty() {
                return Ok(Some(Record {
                    source: Arc::clone(&source),
                    line: number,
                    text: json(line)?,
                    format: None,
                }));
            }
        }
    };
    until_error(move || next().transpose())
}
