//! The file of answers, a line for each. What it holds stays: more is appended, each line whole.
//!
//! Answers to a dataset go on where the file ends. Its lines are compared with what would be written there, and a last line that
//! was cut off when the process or the machine stopped is taken away once the others are known to belong here.

use super::Answer;
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::json;
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The open file of answers.
pub(super) struct Results {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Results {
    /// Opens the file for appending, and creates its folder. A line that was cut off stays as it is, and ends here.
    ///
    /// # Errors
    /// A file that cannot be written, or that another process is writing.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = open(path)?;
        if is_regular(&file) && !ends_with_a_line(&mut file)? {
            file.write_all(b"\n").with_context(|| unwritten(path))?;
        }
        Ok(Self::new(path, file))
    }

    /// Opens the file for going on after its last whole line, and creates its folder. `check` gets each line with its number,
    /// from 0. Returns the number of lines, too.
    ///
    /// # Errors
    /// As [`open`](Self::open), a line that is no JSON object, or those of `check`. The file is as it was.
    pub fn go_on(
        path: &Path,
        check: &mut dyn FnMut(usize, Map<String, Value>) -> Result<()>,
    ) -> Result<(Self, usize)> {
        let mut file = open(path)?;
        let mut lines = 0;
        if is_regular(&file) {
            let read = || format!("{}: cannot be read", path.display());
            file.seek(SeekFrom::Start(0)).with_context(read)?;
            let mut reader = BufReader::new(&file);
            let (mut line, mut whole) = (Vec::new(), 0);
            while reader.read_until(b'\n', &mut line).with_context(read)? > 0 {
                if line.last() != Some(&b'\n') {
                    break;
                }
                check(lines, object(path, lines, &line)?)?;
                lines += 1;
                whole += line.len() as u64;
                line.clear();
            }
            if !line.is_empty() {
                file.set_len(whole).with_context(|| unwritten(path))?;
            }
        }
        Ok((Self::new(path, file), lines))
    }

    fn new(path: &Path, file: File) -> Self {
        Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
        }
    }

    /// Appends lines, and hands them to the system.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, lines: impl IntoIterator<Item = Map<String, Value>>) -> Result<()> {
        let mut text = String::new();
        for line in lines {
            text += &json::text(&Value::Object(line));
            text.push('\n');
        }
        let written = self.file.write_all(text.as_bytes());
        written
            .and_then(|()| self.file.flush())
            .with_context(|| unwritten(&self.path))
    }

    /// Whether it is a file that can be read again, and no pipe or terminal.
    pub fn is_file(&self) -> bool {
        is_regular(self.file.get_ref())
    }
}

fn unwritten(path: &Path) -> String {
    format!("{}: cannot be written", path.display())
}

/// Opens a file for reading and appending, for this process alone.
fn open(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| unwritten(path))?;
    }
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    // A pipe or a terminal is not read.
    options.read(path.metadata().map_or(true, |found| found.is_file()));
    let file = options.open(path).with_context(|| unwritten(path))?;
    if is_regular(&file) {
        match file.try_lock() {
            // A file system without locks has none to respect.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("{}: another process is writing it", path.display())
            }
        }
    }
    Ok(file)
}

fn is_regular(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file())
}

fn ends_with_a_line(file: &mut File) -> Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

fn object(path: &Path, number: usize, line: &[u8]) -> Result<Map<String, Value>> {
    let place = || format!("{}:{}", path.display(), number + 1);
    let text = std::str::from_utf8(line).with_context(place)?;
    let value = json::read(text.trim_end()).map_err(anyhow::Error::from);
    match value.with_context(place)? {
        Value::Object(line) => Ok(line),
        other => bail!("{}: {other}, expected the object of an answer", place()),
    }
}

/// The response in a line: the text of the message, or the whole generated text if the message has none.
pub(super) fn response(answer: &Answer) -> Value {
    let text = answer.message.text().unwrap_or(&answer.text);
    text.into()
}

/// What the lines of a file of answers were made with, in a file beside it, so that nothing else goes on with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct MadeWith(Map<String, Value>);

impl MadeWith {
    /// These values, by the names of their flags.
    pub fn new(values: Map<String, Value>) -> Self {
        Self(values)
    }

    /// Where the values for a file of answers lie.
    fn place(answers: &Path) -> PathBuf {
        let mut name = answers.as_os_str().to_owned();
        name.push(".args.json");
        name.into()
    }

    /// Reads the values for a file of answers, if it has any.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn beside(answers: &Path) -> Result<Option<Self>> {
        use apus_sdk::small_file::{Limit, text_if_there};
        let place = Self::place(answers);
        match text_if_there(&place, Limit::STORED)? {
            None => Ok(None),
            Some(text) => {
                let values = serde_json::from_str(&text);
                Ok(Some(Self(values.with_context(|| {
                    format!("{}: malformed JSON", place.display())
                })?)))
            }
        }
    }

    /// Writes the values for a file of answers.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write(&self, answers: &Path) -> Result<()> {
        let place = Self::place(answers);
        let mut text = serde_json::to_string_pretty(&self.0)?;
        text.push('\n');
        std::fs::write(&place, text).with_context(|| unwritten(&place))
    }

    /// A value that is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// Checks that answers that were made with `saved` and those that will be made with these values fit together.
    ///
    /// # Errors
    /// They do not; the error says each difference and what can be done.
    pub fn check(&self, saved: Option<&Self>, answers: &Path) -> Result<()> {
        let file = answers.display();
        let Some(saved) = saved else {
            bail!(
                "{file} holds answers, and {} does not say what they were made with: they cannot be gone on with; choose \
                 another --result_path",
                Self::place(answers).display()
            );
        };
        let mut names: Vec<&String> = self.0.keys().chain(saved.0.keys()).collect();
        names.sort();
        names.dedup();
        let value = |values: &Self, name| values.0.get(name).cloned().unwrap_or(Value::Null);
        let different = names.into_iter().filter_map(|name| {
            let (was, is) = (value(saved, name), value(self, name));
            (was != is).then(|| format!("\n  {name}: {was} there, {is} now"))
        });
        let different: String = different.collect();
        ensure!(
            different.is_empty(),
            "{file} holds answers that were made with something else:{different}\nGo on with the same values, or choose \
             another --result_path"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs;

    fn line(number: usize) -> Map<String, Value> {
        Map::from_iter([("response".to_owned(), json!(number))])
    }

    #[test]
    fn a_file_goes_on_after_its_last_whole_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/answers.jsonl");
        let whole = (0..3)
            .map(|n| format!("{{\"response\":{n}}}\n"))
            .collect::<String>();
        for torn in 0..whole.len() {
            let _ = fs::remove_file(&path);
            let (mut results, _) = Results::go_on(&path, &mut |_, _| panic!("a line")).unwrap();
            results.write((0..3).map(line)).unwrap();
            drop(results);
            fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(torn as u64)
                .unwrap();
            let mut seen = Vec::new();
            let (mut results, lines) = Results::go_on(&path, &mut |number, line| {
                seen.push((number, line));
                Ok(())
            })
            .unwrap();
            assert_eq!(seen, (0..lines).map(|n| (n, line(n))).collect::<Vec<_>>());
            results.write((lines..3).map(line)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), whole, "{torn}");
        }
    }

    #[test]
    fn what_does_not_belong_here_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        for (text, expected) in [
            ("{\"a\":1}\nno\n{\"a\"", "answers.jsonl:2"),
            ("[1]\n", "answers.jsonl:1: [1], expected the object"),
            ("\n", "answers.jsonl:1"),
            ("{\"a\":1}\n{\"a\":2}\n{", "not mine"),
        ] {
            fs::write(&path, text).unwrap();
            let check = &mut |number, _| match number {
                1 => bail!("not mine"),
                _ => Ok(()),
            };
            let error = format!("{:#}", Results::go_on(&path, check).err().unwrap());
            assert!(error.contains(expected), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::write(&path, "torn").unwrap();
        let mut results = Results::open(&path).unwrap();
        let error = Results::open(&path).err().unwrap().to_string();
        assert!(error.contains("another process"), "{error}");
        results.write([line(1)]).unwrap();
        drop(results);
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "torn\n{\"response\":1}\n"
        );
    }

    #[test]
    fn what_differs_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers.jsonl");
        let values = |pairs: &[(&str, Value)]| {
            MadeWith::new(
                pairs
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect(),
            )
        };
        let first = values(&[("seed", json!(42)), ("system", json!("Mew."))]);
        assert_eq!(MadeWith::beside(&path).unwrap(), None);
        first.write(&path).unwrap();
        let saved = MadeWith::beside(&path).unwrap();
        assert_eq!(saved.as_ref().unwrap().text("system"), Some("Mew."));
        first.check(saved.as_ref(), &path).unwrap();
        let other = values(&[
            ("seed", json!(7)),
            ("top_k", json!(1)),
            ("system", json!("Mew.")),
        ]);
        let error = other.check(saved.as_ref(), &path).unwrap_err().to_string();
        for part in [
            "seed: 42 there, 7 now",
            "top_k: null there, 1 now",
            "--result_path",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(!error.contains("Mew"), "{error}");
        assert!(
            other
                .check(None, &path)
                .unwrap_err()
                .to_string()
                .contains("args.json")
        );
    }
}
