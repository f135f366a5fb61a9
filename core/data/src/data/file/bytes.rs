//! Reads the bytes of a file as text.

use anyhow::{Context, Result, anyhow};
use std::io::BufRead;

/// The byte order mark.
const BOM: &str = "\u{feff}";

/// Reads bytes that begin in this line, after `column` bytes of it, as text.
///
/// # Errors
/// The bytes are not UTF-8; the error names the line.
pub fn utf8(bytes: Vec<u8>, source: &str, line: usize, column: usize) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let good = &error.as_bytes()[..valid];
        let line = line + good.iter().filter(|byte| **byte == b'\n').count();
        let last_break = good.iter().rposition(|byte| *byte == b'\n');
        let column = last_break.map_or(column + valid, |i| valid - i - 1) + 1;
        anyhow!("{source}:{line}: invalid UTF-8 at byte {column} of the line; datasets are UTF-8")
    })
}

/// Reads the next line, without the line break and without a byte order mark before the first line.
///
/// # Errors
/// The file cannot be read or decompressed, or the line is not UTF-8.
pub fn line(reader: &mut dyn BufRead, source: &str, number: usize) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    let read = reader.read_until(b'\n', &mut bytes);
    if read.with_context(|| format!("{source}:{number}: reading"))? == 0 {
        return Ok(None);
    }
    let mut text = utf8(bytes, source, number, 0)?;
    if number == 1 && text.starts_with(BOM) {
        text.drain(..BOM.len());
    }
    for end in ['\n', '\r'] {
        if text.ends_with(end) {
            text.pop();
        }
    }
    Ok(Some(text))
}
