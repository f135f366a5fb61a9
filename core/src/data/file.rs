//! Dataset files: `.jsonl`, `.json` (an array of rows, or rows one after another), `.csv` (the first line
//! names the columns; every cell is text), each also `.gz`.
//!
//! A row keeps its file and line, so that whatever goes wrong with it later can say where it is.

use anyhow::{Context, Result, anyhow, bail, ensure};
use apus_sdk::Row;
use flate2::read::MultiGzDecoder;
use serde::de::IgnoredAny;
use std::{
    fmt,
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
    sync::Arc,
};

/// One row as text, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The file, as it was named.
    pub source: Arc<str>,
    /// The line on which the row begins, from 1.
    pub line: usize,
    /// The row's JSON text.
    pub text: String,
}

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub source: Arc<str>,
    /// The line on which the row begins, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.line)
    }
}

impl Record {
    /// Where the row stands.
    pub fn place(&self) -> Place {
        Place {
            source: Arc::clone(&self.source),
            line: self.line,
        }
    }

    /// The row's columns.
    ///
    /// # Errors
    /// Text that is not a JSON object, with file and line.
    pub fn row(&self) -> Result<Row> {
        serde_json::from_str(&self.text).map_err(|error| malformed(&self.source, self.line, &error))
    }
}

fn malformed(source: &str, line: usize, error: &serde_json::Error) -> anyhow::Error {
    let message = error.to_string();
    let what = message.split(" at line ").next().unwrap_or(&message);
    let line = line + error.line().saturating_sub(1);
    if error.is_data() {
        anyhow!("{source}:{line}: expected a row, a JSON object of columns: {what}")
    } else {
        anyhow!(
            "{source}:{line}: malformed JSON: {what} (column {})",
            error.column()
        )
    }
}

/// All rows of a file.
///
/// # Errors
/// A file that is missing, empty, of an unknown type, not UTF-8, or not JSON, with the line.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let name = path.display().to_string();
    let source: Arc<str> = Arc::from(name.as_str());
    let mut lower = name.to_lowercase();
    let gz = lower.ends_with(".gz");
    if gz {
        lower.truncate(lower.len() - 3);
    }
    let lines = lower.ends_with(".jsonl");
    let table = lower.ends_with(".csv");
    ensure!(
        lines || table || lower.ends_with(".json"),
        "dataset {name}: unknown type of file, expected .jsonl, .json or .csv (or one of them with .gz)"
    );
    ensure!(
        !path.is_dir(),
        "dataset {name} is a folder, expected a file"
    );
    let file = File::open(path).map_err(|error| missing(path, &error))?;
    let reader: Box<dyn BufRead> = if gz {
        Box::new(BufReader::with_capacity(1 << 20, MultiGzDecoder::new(file)))
    } else {
        Box::new(BufReader::with_capacity(1 << 20, file))
    };
    let records = if lines {
        read_lines(reader, &source)
    } else if table {
        read_table(reader, &source)
    } else {
        read_values(reader, &source)
    };
    let records = records?;
    ensure!(
        !records.is_empty(),
        "dataset {name} is empty: it has no rows"
    );
    Ok(records)
}

/// Rows of a table; an empty cell is an empty text, as in ms-swift.
fn read_table(reader: impl Read, source: &Arc<str>) -> Result<Vec<Record>> {
    let mut table = csv::Reader::from_reader(reader);
    let broken = |error: csv::Error| match error.position() {
        Some(place) => anyhow!("{source}:{}: malformed CSV: {error}", place.line()),
        None => anyhow!("{source}: malformed CSV: {error}"),
    };
    let columns = table.headers().map_err(broken)?.clone();
    let mut records = Vec::new();
    for row in table.records() {
        let row = row.map_err(broken)?;
        let cells = columns.iter().zip(&row);
        let cells: Row = cells
            .map(|(name, cell)| (name.trim().to_owned(), cell.into()))
            .collect();
        records.push(Record {
            source: Arc::clone(source),
            line: row.position().map_or(0, |place| place.line() as usize),
            text: serde_json::to_string(&cells)?,
        });
    }
    Ok(records)
}

fn missing(path: &Path, error: &std::io::Error) -> anyhow::Error {
    let name = path.display();
    if error.kind() != std::io::ErrorKind::NotFound {
        return anyhow!("dataset {name}: {error}");
    }
    let wanted = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let entries = std::fs::read_dir(folder.unwrap_or(Path::new(".")))
        .into_iter()
        .flatten();
    let nearest = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .map(|found| (strsim::jaro_winkler(&found, &wanted), found))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match (nearest, folder) {
        (Some((_, found)), _) => anyhow!("no dataset {name}; the nearest name there is `{found}`"),
        (None, Some(folder)) if !folder.exists() => {
            anyhow!("no dataset {name}: there is no folder {}", folder.display())
        }
        _ => anyhow!("no dataset {name}"),
    }
}

fn utf8(bytes: Vec<u8>, source: &str, first_line: usize) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let good = &error.as_bytes()[..at];
        let line = first_line + good.iter().filter(|byte| **byte == b'\n').count();
        let column = at - good.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1) + 1;
        anyhow!("{source}:{line}: invalid UTF-8 at byte {column} of the line; datasets are UTF-8")
    })
}

fn read_lines(mut reader: Box<dyn BufRead>, source: &Arc<str>) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for line in 1.. {
        let mut bytes = Vec::new();
        let read = reader.read_until(b'\n', &mut bytes);
        if read.with_context(|| format!("{source}:{line}: reading"))? == 0 {
            break;
        }
        let mut text = utf8(bytes, source, line)?;
        text.truncate(text.trim_end().len());
        if line == 1 && text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        if !text.is_empty() {
            records.push(Record {
                source: Arc::clone(source),
                line,
                text,
            });
        }
    }
    Ok(records)
}

fn read_values(mut reader: Box<dyn BufRead>, source: &Arc<str>) -> Result<Vec<Record>> {
    let mut bytes = Vec::new();
    reader
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading {source}"))?;
    let text = utf8(bytes, source, 1)?;
    let mut cursor = Cursor {
        text: text.strip_prefix('\u{feff}').unwrap_or(&text),
        at: 0,
        line: 1,
        source,
    };
    cursor.skip_space();
    if cursor.rest().starts_with('[') {
        cursor.array()
    } else {
        cursor.sequence()
    }
}

/// A place in a JSON file, with its line.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    source: &'a Arc<str>,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.text.as_bytes()[self.at..self.at + bytes];
        self.line += passed.iter().filter(|byte| **byte == b'\n').count();
        self.at += bytes;
    }

    fn skip_space(&mut self) {
        let space = [' ', '\t', '\r', '\n'];
        let rest = self.rest();
        self.advance(rest.len() - rest.trim_start_matches(space).len());
    }

    fn here(&self) -> String {
        format!("{}:{}", self.source, self.line)
    }

    /// The row that begins here.
    fn value(&mut self) -> Result<Record> {
        let rest = self.rest();
        if !rest.starts_with('{') {
            let found: String = rest.chars().take(20).collect();
            bail!(
                "{}: expected a row, `{{\"column\": ..}}`, found `{found}`",
                self.here()
            );
        }
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        let found = values.next();
        let end = values.byte_offset();
        match found {
            Some(Err(error)) => Err(malformed(self.source, self.line, &error)),
            _ => {
                let record = Record {
                    source: Arc::clone(self.source),
                    line: self.line,
                    text: rest[..end].to_owned(),
                };
                self.advance(end);
                Ok(record)
            }
        }
    }

    fn array(&mut self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        self.advance(1);
        self.skip_space();
        if self.rest().starts_with(']') {
            return Ok(records);
        }
        loop {
            records.push(self.value()?);
            self.skip_space();
            match self.rest().chars().next() {
                Some(',') => {
                    self.advance(1);
                    self.skip_space();
                }
                Some(']') => break,
                Some(found) => bail!(
                    "{}: expected `,` or `]` after a row, found `{found}`",
                    self.here()
                ),
                None => bail!("{}: the file ends inside its array of rows", self.here()),
            }
        }
        self.advance(1);
        self.skip_space();
        ensure!(
            self.rest().is_empty(),
            "{}: text after the end of the array of rows",
            self.here()
        );
        Ok(records)
    }

    fn sequence(&mut self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        loop {
            self.skip_space();
            if self.rest().is_empty() {
                return Ok(records);
            }
            records.push(self.value()?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn write(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn lines(name: &str, bytes: &[u8]) -> Vec<(usize, String)> {
        let (_dir, path) = write(name, bytes);
        let records = read(&path).unwrap();
        records
            .into_iter()
            .map(|r| (r.line, r.row().unwrap()["a"].to_string()))
            .collect()
    }

    fn error(name: &str, bytes: &[u8]) -> String {
        let (_dir, path) = write(name, bytes);
        let read = read(&path)
            .and_then(|records| records.iter().map(Record::row).collect::<Result<Vec<_>>>());
        format!("{:#}", read.unwrap_err())
    }

    #[test]
    fn rows_know_their_lines() {
        let expected = [(1, "1".to_owned()), (4, "2".to_owned())];
        assert_eq!(lines("d.jsonl", b"{\"a\": 1}\n\n \r\n{\"a\": 2}"), expected);
        assert_eq!(
            lines("d.json", b"[{\"a\":\n 1},\n\n{\"a\": 2}\n]\n"),
            expected
        );
        assert_eq!(lines("d.json", b"{\"a\":\n 1}\n\n{\"a\": 2}"), expected);
        assert_eq!(
            lines("d.JSON", "\u{feff}{\"a\": 1}\n\n\n{\"a\": 2}".as_bytes()),
            expected
        );
    }

    #[test]
    fn compressed_files_are_read() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"{\"a\": 1}\n").unwrap();
        assert_eq!(
            lines("d.jsonl.gz", &gz.finish().unwrap()),
            [(1, "1".to_owned())]
        );
    }

    #[test]
    fn malformed_json_names_the_line() {
        let bad = error("d.jsonl", b"{\"a\": 1}\n{\"a\": }\n");
        assert!(
            bad.contains("d.jsonl:2: malformed JSON: expected value"),
            "{bad}"
        );
        let bad = error("d.jsonl", b"{\"a\": 1}\n[1]\n");
        assert!(bad.contains("d.jsonl:2: expected a row"), "{bad}");
        let bad = error("d.json", b"[\n{\"a\": 1},\n{\"a\":\n oops}]");
        assert!(bad.contains("d.json:4: malformed JSON"), "{bad}");
        let bad = error("d.json", b"[\n{\"a\": 1},\n]");
        assert!(
            bad.contains("d.json:3: expected a row") && bad.contains("`]`"),
            "{bad}"
        );
        let bad = error("d.json", b"[\n{\"a\": 1}\n");
        assert!(bad.contains("d.json:3: the file ends inside"), "{bad}");
        let bad = error("d.json", b"[{\"a\": 1}\n{\"a\": 1}]");
        assert!(bad.contains("d.json:2: expected `,`"), "{bad}");
        let bad = error("d.json", b"[{\"a\": 1}]\nx");
        assert!(bad.contains("d.json:2: text after"), "{bad}");
    }

    #[test]
    fn bytes_that_are_not_utf8_name_the_line() {
        let bad = error("d.jsonl", b"{\"a\": 1}\n{\"a\": \"\xff\"}\n");
        assert!(bad.contains("d.jsonl:2: invalid UTF-8 at byte 8"), "{bad}");
        let bad = error("d.json", b"[{\"a\": 1},\n{\"a\": \"\xff\"}]");
        assert!(bad.contains("d.json:2: invalid UTF-8 at byte 8"), "{bad}");
    }

    #[test]
    fn files_without_rows_or_without_a_known_type() {
        assert!(error("d.jsonl", b"\n").contains("is empty"));
        assert!(error("d.json", b" [ ] ").contains("is empty"));
        assert!(error("d.txt", b"x").contains("unknown type"));
    }

    #[test]
    fn a_missing_file_names_the_nearest() {
        let (dir, path) = write("train.jsonl", b"{}");
        let bad = read(&path.with_file_name("trian.jsonl"))
            .unwrap_err()
            .to_string();
        assert!(bad.contains("nearest name there is `train.jsonl`"), "{bad}");
        let bad = read(&dir.path().join("no/x.json")).unwrap_err().to_string();
        assert!(bad.contains("no folder"), "{bad}");
    }

    #[test]
    fn a_table_with_its_own_columns() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        std::fs::write(
            &path,
            "ask,reply\n\"two, or\nthree?\",\"say \"\"hi\"\"\"\nb,\n",
        )
        .unwrap();
        let records = read(&path).unwrap();
        assert_eq!(records[0].row().unwrap()["ask"], "two, or\nthree?");
        assert_eq!(records[0].row().unwrap()["reply"], "say \"hi\"");
        assert_eq!(
            (records[1].line, records[1].row().unwrap()["reply"].as_str()),
            (4, Some(""))
        );
        std::fs::write(&path, "a,b\n1,2\n1,2,3\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("a.csv:3: malformed CSV"), "{error}");
    }
}
