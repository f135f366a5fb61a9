//! A dataset format that says which columns it reads: it gets these of a row, and the others are named as not read.

use super::columns::{ColumnKey, keys};
use apus_sdk::{Converted, DatasetFormat, Result, Row, Sample, Unread};
use serde::de::IgnoredAny;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The columns that a format reads, and which of them there were.
pub struct ColumnsRead {
    columns: Vec<Column>,
    /// Whether the format was given a row.
    is_used: AtomicBool,
}

struct Column {
    name: String,
    found: AtomicBool,
}

impl ColumnsRead {
    /// Those that no row had; none where there was no row.
    pub fn absent(&self) -> Vec<&str> {
        let is_absent = |column: &&Column| !column.found.load(Ordering::Relaxed);
        let absent = self.columns.iter().filter(is_absent);
        match self.is_used.load(Ordering::Relaxed) {
            true => absent.map(|column| column.name.as_str()).collect(),
            false => Vec::new(),
        }
    }
}

/// A format with the columns that it reads.
struct OfColumns {
    format: Box<dyn DatasetFormat>,
    read: Arc<ColumnsRead>,
}

/// A format, and the columns that it reads, if it says so.
pub type ReadFormat = (Box<dyn DatasetFormat>, Option<Arc<ColumnsRead>>);

/// The format as a run uses it, and the columns that it reads, if it says so.
///
/// # Errors
/// The format failed, or names no column.
pub fn of_columns(format: Box<dyn DatasetFormat>) -> Result<ReadFormat> {
    let Some(columns) = format.columns()? else {
        return Ok((format, None));
    };
    if columns.is_empty() {
        return Err("it reads no column at all (fn columns gives an empty list)".into());
    }
    let column = |name| Column {
        name,
        found: AtomicBool::new(false),
    };
    let read = Arc::new(ColumnsRead {
        columns: columns.into_iter().map(column).collect(),
        is_used: AtomicBool::new(false),
    });
    let format = OfColumns {
        format,
        read: Arc::clone(&read),
    };
    Ok((Box::new(format), Some(read)))
}

impl OfColumns {
    /// The row without columns that are not read, if there are such.
    fn part(&self, text: &str) -> Option<(String, Vec<ColumnKey>)> {
        self.read.is_used.store(true, Ordering::Relaxed);
        // What is no JSON is for the format to refuse.
        serde_json::from_str::<IgnoredAny>(text).ok()?;
        let keys = keys(text);
        let end = text.rfind('}')?;
        let ends: Vec<usize> = keys
            .iter()
            .skip(1)
            .map(|key| key.range.start)
            .chain([end])
            .collect();
        let (mut left, mut unread) = (Vec::new(), Vec::new());
        for (key, end) in keys.into_iter().zip(ends) {
            let member =
                |start: usize| text[start..end].trim_end().trim_end_matches(',').trim_end();
            match self
                .read
                .columns
                .iter()
                .find(|column| column.name == key.name)
            {
                Some(column) => {
                    column.found.store(true, Ordering::Relaxed);
                    left.push(member(key.range.start));
                }
                None if member(key.range.end)
                    .trim_start_matches(|c: char| c == ':' || c.is_whitespace())
                    == "null" => {}
                None => unread.push(key),
            }
        }
        Some((format!("{{{}}}", left.join(",")), unread))
    }
}

impl DatasetFormat for OfColumns {
    fn columns(&self) -> Result<Option<Vec<String>>> {
        let names = self.read.columns.iter().map(|column| column.name.clone());
        Ok(Some(names.collect()))
    }

    fn recognises(&self, columns: &[&str]) -> bool {
        self.format.recognises(columns)
    }

    fn rank(&self) -> i32 {
        self.format.rank()
    }

    fn try_rank(&self, columns: &[&str]) -> Result<Option<i32>> {
        self.format.try_rank(columns)
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        self.convert_text(&serde_json::to_string(&row)?)
    }

    fn convert_text(&self, text: &str) -> Result<Vec<Sample>> {
        Ok(self.convert_text_noting(text)?.samples)
    }

    fn convert_noting(&self, row: Row) -> Result<Converted> {
        self.convert_text_noting(&serde_json::to_string(&row)?)
    }

    fn convert_text_noting(&self, text: &str) -> Result<Converted> {
        let Some((part, others)) = self.part(text) else {
            return self.format.convert_text_noting(text);
        };
        let Converted { samples, unread } = self.format.convert_text_noting(&part)?;
        let others = others.into_iter().map(|key| Unread {
            path: key.name,
            harmless: false,
        });
        let unread = unread.unwrap_or_default().into_iter().chain(others);
        Ok(Converted {
            samples,
            unread: Some(unread.collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Mutex;

    struct Named(Vec<String>, Arc<Mutex<Vec<String>>>);

    impl DatasetFormat for Named {
        fn columns(&self) -> Result<Option<Vec<String>>> {
            Ok(Some(self.0.clone()))
        }
        fn recognises(&self, _: &[&str]) -> bool {
            true
        }
        fn convert(&self, row: Row) -> Result<Vec<Sample>> {
            self.1.lock().unwrap().push(json!(row).to_string());
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_format_gets_its_columns_and_the_others_are_named() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let names = ["q", "a", "none"].map(str::to_owned).to_vec();
        let (format, read) = of_columns(Box::new(Named(names, Arc::clone(&seen)))).unwrap();
        let read = read.unwrap();
        assert_eq!(read.absent(), [""; 0], "nothing was read");
        let unread = |text: &str| -> Vec<String> {
            let found = format.convert_text_noting(text).unwrap().unread.unwrap();
            found.into_iter().map(|unread| unread.path).collect()
        };
        let rows = [
            (
                r#"{"q": "x, }\"", "x": {"q": [1, "}"]}, "a": [{"b": 2}]}"#,
                vec!["x"],
            ),
            (r#"{ "n" : null , "\u0071":1.50 }"#, vec![]),
            (r#"{"x": 1, "y": "a"}"#, vec!["x", "y"]),
            ("{}", vec![]),
        ];
        for (text, expected) in rows {
            assert_eq!(unread(text), expected, "{text}");
        }
        assert_eq!(
            *seen.lock().unwrap(),
            [
                json!({"q": "x, }\"", "a": [{"b": 2}]}).to_string(),
                json!({"q": 1.5}).to_string(),
                "{}".to_owned(),
                "{}".to_owned()
            ]
        );
        assert_eq!(read.absent(), ["none"]);
        assert!(format.convert_text_noting(r#"{"q": 1"#).is_err());
        let none = of_columns(Box::new(Named(Vec::new(), seen))).err().unwrap();
        assert!(none.to_string().contains("reads no column at all"));
    }
}
