//! Renames the columns of a dataset as `--columns` says, before a format is chosen.

use super::{Record, Report};
use anyhow::{Context, Result, bail, ensure};
use apus_sdk::small_file::{self, Limit};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    ops::Range,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Renames columns as ms-swift's `safe_rename_columns` does. The letter case of an old name does not count. If several
/// columns of a row would get the same name, none of them is renamed, and a warning says so. A column that keeps its name is
/// left alone.
#[derive(Debug, Default)]
pub struct Columns {
    renames: Vec<Rename>,
    clashes: Mutex<Clashes>,
}

/// New names that several columns of one row would get.
#[derive(Debug, Default)]
struct Clashes {
    seen: BTreeSet<String>,
    unreported: Vec<String>,
}

#[derive(Debug)]
struct Rename {
    from: String,
    to: String,
    found: AtomicBool,
}

impl Columns {
    /// Reads the flag's value: an object of names, or the path of a JSON file that holds one.
    ///
    /// # Errors
    /// The file cannot be read, or the value is not an object whose values are names.
    pub fn new(value: &Value) -> Result<Self> {
        let read;
        let (map, origin) = match value {
            Value::Null => return Ok(Self::default()),
            Value::String(path) => {
                let text = small_file::text(Path::new(path), Limit::WRITTEN)
                    .with_context(|| format!("columns: {path} cannot be read; expected JSON such as {{\"text1\": \"query\"}}, or the path of such a file"))?;
                read = serde_json::from_str(&text)
                    .with_context(|| format!("columns: {path} is not JSON"))?;
                (&read, path.as_str())
            }
            value => (value, "columns"),
        };
        let Value::Object(map) = map else {
            bail!("{origin}: expected an object such as {{\"text1\": \"query\"}}, found {map}");
        };
        let mut renames = Vec::<Rename>::new();
        for (from, to) in map {
            let Value::String(to) = to else {
                bail!("{origin}: `{from}` must be given a name, found {to}");
            };
            let from = from.to_lowercase();
            ensure!(
                renames.iter().all(|rename| rename.from != from),
                "{origin}: `{from}` is given twice (letter case does not count)"
            );
            renames.push(Rename {
                from,
                to: to.clone(),
                found: AtomicBool::new(false),
            });
        }
        Ok(Self {
            renames,
            clashes: Mutex::default(),
        })
    }

    /// Whether there is nothing to rename.
    pub fn is_empty(&self) -> bool {
        self.renames.is_empty()
    }

    /// Renames the columns of a record; the text of their values stays as it is.
    ///
    /// # Errors
    /// The text is not a row, or another column has a new name already.
    pub fn apply(&self, mut record: Record) -> Result<Record> {
        if !self.is_empty() {
            record.row()?;
            let replacements = self.replacements(&record)?;
            record.text = replace_names(&record.text, replacements);
        }
        Ok(record)
    }

    /// The names in the text of a row that are replaced: the range of each, and the new name.
    fn replacements(&self, record: &Record) -> Result<Vec<(Range<usize>, &str)>> {
        let keys = keys(&record.text);
        let mut targets: Vec<(&ColumnKey, &str)> = Vec::new();
        for key in &keys {
            let lower = key.name.to_lowercase();
            if let Some(rename) = self.renames.iter().find(|rename| rename.from == lower) {
                rename.found.store(true, Ordering::Relaxed);
                targets.push((key, &rename.to));
            }
        }
        let mut new = Vec::new();
        for (key, to) in &targets {
            let rivals: Vec<&str> = targets
                .iter()
                .filter(|(_, other)| other == to)
                .map(|(key, _)| key.name.as_str())
                .collect();
            if rivals.len() > 1 {
                self.clash(to, &rivals, record);
            } else if key.name != *to {
                new.push((*key, *to));
            }
        }
        for (key, to) in &new {
            let taken = keys.iter().any(|other| {
                other.name == *to && new.iter().all(|(renamed, _)| renamed.range != other.range)
            });
            ensure!(
                !taken,
                "{record}: columns renames `{}` to `{to}`, and the row has a column `{to}` already; rename that one too",
                key.name
            );
        }
        Ok(new
            .into_iter()
            .map(|(key, to)| (key.range.clone(), to))
            .collect())
    }

    fn clash(&self, to: &str, rivals: &[&str], record: &Record) {
        let mut clashes = self.lock();
        if clashes.seen.insert(to.to_owned()) {
            clashes.unreported.push(format!(
                "columns: {} would all become `{to}`, so none of them is renamed (first in {record})",
                rivals.join(", ")
            ));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Clashes> {
        self.clashes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a column of this name gets another one.
    pub fn renames(&self, name: &str) -> bool {
        let lower = name.to_lowercase();
        self.renames.iter().any(|rename| rename.from == lower)
    }

    /// Warnings about new names that several columns would get, found since the last call.
    pub fn clash_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().unreported)
    }

    /// Warnings about old names that no row has. They hold once all rows are renamed.
    pub fn absent_warnings(&self) -> Vec<String> {
        let absent = self
            .renames
            .iter()
            .filter(|rename| !rename.found.load(Ordering::Relaxed));
        absent
            .map(|rename| format!("columns: no row has a column `{}`", rename.from))
            .collect()
    }

    /// Warnings about new names that the format of a file does not use. They hold once all rows are read.
    pub fn unused_warnings(&self, report: &Report) -> Vec<String> {
        let warnings = report.sources.iter().flat_map(|source| {
            let unused = self
                .renames
                .iter()
                .filter(|rename| source.unused.has(&rename.to));
            unused.map(|Rename { from, to, .. }| {
                format!(
                    "columns: the new name `{to}` of `{from}` is none that the format {} uses ({})",
                    source.format, source.source
                )
            })
        });
        warnings.collect()
    }
}

/// A column's name in the text of a row.
pub(super) struct ColumnKey {
    pub name: String,
    /// Its range in the text, with its quotes.
    pub range: Range<usize>,
}

/// The columns of a row, given as valid JSON text.
pub(super) fn keys(text: &str) -> Vec<ColumnKey> {
    let bytes = text.as_bytes();
    let (mut found, mut depth, mut at) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        let start = at;
        at += 1;
        match bytes[start] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => {
                while at < bytes.len() && bytes[at] != b'"' {
                    at += 1 + usize::from(bytes[at] == b'\\');
                }
                at = (at + 1).min(bytes.len());
                let is_key = depth == 1 && text[at..].trim_start().starts_with(':');
                if let (true, Ok(name)) = (is_key, serde_json::from_str(&text[start..at])) {
                    found.push(ColumnKey {
                        name,
                        range: start..at,
                    });
                }
            }
            _ => {}
        }
    }
    found
}

/// Replaces names in a text; they are given in the order of the text.
fn replace_names(text: &str, names: Vec<(Range<usize>, &str)>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut copied = 0;
    for (range, name) in names {
        out.push_str(&text[copied..range.start]);
        out.push_str(&Value::from(name).to_string());
        copied = range.end;
    }
    out + &text[copied..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn renamed(columns: &Columns, row: Value) -> Result<String> {
        let record = Record {
            source: Arc::from("d.jsonl"),
            line: 3,
            text: row.to_string(),
            format: None,
        };
        columns.apply(record).map(|record| record.text)
    }

    #[test]
    fn names_change_and_order_stays() {
        let columns = Columns::new(&json!({"text1": "query", "B": "response", "no": "x"})).unwrap();
        let row = json!({"id": 1, "TEXT1": "q", "b": "r"});
        assert_eq!(
            renamed(&columns, row).unwrap(),
            r#"{"id":1,"query":"q","response":"r"}"#
        );
        assert_eq!(
            columns.absent_warnings(),
            ["columns: no row has a column `no`"]
        );
        let swap = Columns::new(&json!({"a": "b", "b": "a"})).unwrap();
        assert_eq!(
            renamed(&swap, json!({"a": 1, "b": 2})).unwrap(),
            r#"{"b":1,"a":2}"#
        );
    }

    #[test]
    fn values_stay_as_they_are_written() {
        let columns = Columns::new(&json!({"a": "query", "b\"": "x"})).unwrap();
        let record = |text: &str| Record {
            source: Arc::from("d.jsonl"),
            line: 1,
            text: text.to_owned(),
            format: None,
        };
        let text = r#" {"\u0061" : [ 123456789012345678901234567890, 1e5, {"a": "a\": {"} ] , "c":"a", "b\"":-0}"#;
        let found = columns.apply(record(text)).unwrap().text;
        let expected = r#" {"query" : [ 123456789012345678901234567890, 1e5, {"a": "a\": {"} ] , "c":"a", "x":-0}"#;
        assert_eq!(found, expected);
    }

    #[test]
    fn of_several_with_one_name_none_is_renamed() {
        let columns = Columns::new(&json!({"a": "query", "query": "query"})).unwrap();
        let row = json!({"a": 1, "query": 2});
        assert_eq!(renamed(&columns, row.clone()).unwrap(), row.to_string());
        let warnings = columns.clash_warnings().join("\n");
        assert!(
            warnings.contains("a, query would all become `query`")
                && warnings.contains("d.jsonl:3"),
            "{warnings}"
        );
        assert_eq!(
            renamed(&columns, json!({"a": 1})).unwrap(),
            r#"{"query":1}"#
        );
    }

    #[test]
    fn mistakes_are_named() {
        let error = |value: Value| format!("{:#}", Columns::new(&value).unwrap_err());
        assert!(error(json!("/no.json")).contains("/no.json cannot be read"));
        assert!(error(json!(["a"])).contains("expected an object"));
        assert!(error(json!({"a": 1})).contains("`a` must be given a name, found 1"));
        assert!(error(json!({"a": "x", "A": "y"})).contains("given twice"));
        let columns = Columns::new(&json!({"a": "query"})).unwrap();
        let bad = renamed(&columns, json!({"a": 1, "query": 2})).unwrap_err();
        assert!(
            bad.to_string().contains("d.jsonl:3") && bad.to_string().contains("already"),
            "{bad}"
        );
    }
}
