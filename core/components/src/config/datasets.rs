//! A dataset as a configuration names it: `NAME[#N][?OPTIONS]`, or a table. This is the one place that reads either.
//!
//! What exists under the whole text comes first, so that no name of a file is lost to the notation.

use super::SftConfig;
use super::coerce::kind_of;
use super::flag::ValueKind;
use super::value::FlagValue;
use crate::registry::Spec;
use anyhow::{Context, Result, bail, ensure};
use percent_encoding::percent_decode_str;
use serde::de::{Error, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::{fmt, path::Path};

/// A dataset as it is named.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum DatasetSpec {
    /// `NAME[#N][?OPTIONS]`.
    Text(String),
    /// The same in a configuration file, where nothing has to be escaped.
    Table(Box<DatasetTable>),
}

/// A dataset as a table of a configuration file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetTable {
    /// A file, a folder or a pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// `owner/name` of a hub, or the name of a dataset that is a component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The branch, tag or commit of an id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revision: Option<String>,
    /// Subsets of an id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subsets: Vec<String>,
    /// The number of rows, `#N`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rows: Option<usize>,
    /// The format of its rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    format: Option<Spec>,
    /// New names of its columns, in place of the flag `columns`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    columns: Map<String, Value>,
    /// Options of a dataset that is a component.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    options: Map<String, Value>,
}

/// What a dataset's text or table says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DatasetParts {
    /// A path, a pattern, or an id with its revision and subsets.
    pub name: String,
    /// The number of rows, if not all of them.
    pub rows: Option<usize>,
    /// Options of a dataset that is a component.
    pub options: Map<String, Value>,
    /// The format of its rows, if it is not to be recognised.
    pub format: Option<Spec>,
    /// New names of its columns; null leaves it to the flag `columns`.
    pub columns: Value,
}

impl DatasetSpec {
    /// Takes it apart.
    ///
    /// # Errors
    /// A number of rows that is none, options without a format, a key twice; the error names the dataset.
    pub fn parts(&self) -> Result<DatasetParts> {
        let parts = match self {
            Self::Text(text) => of_text(text),
            Self::Table(table) => of_table(table),
        };
        parts.with_context(|| format!("dataset `{self}`"))
    }

    /// Its first rows, if it does not say itself how many.
    ///
    /// # Errors
    /// As of [`Self::parts`].
    pub fn with_rows(&self, rows: usize) -> Result<Self> {
        if self.parts()?.rows.is_some() {
            return Ok(self.clone());
        }
        Ok(match self {
            Self::Text(text) => {
                let (name, options) = split(text);
                let options = options.map_or(String::new(), |options| format!("?{options}"));
                Self::Text(format!("{name}#{rows}{options}"))
            }
            Self::Table(table) => Self::Table(Box::new(DatasetTable {
                rows: Some(rows),
                ..*table.clone()
            })),
        })
    }
}

impl SftConfig {
    /// Options for datasets that are components, as flags of the run give them: those that are given.
    pub fn dataset_options(&self) -> Map<String, Value> {
        let flags = [
            ("model_name", &self.model_name),
            ("model_author", &self.model_author),
        ];
        let given = flags.into_iter().filter(|(_, names)| !names.is_empty());
        given
            .map(|(flag, names)| (flag.to_owned(), Value::from(names.clone())))
            .collect()
    }
}

/// The texts of several, for messages.
pub fn listed(specs: &[DatasetSpec]) -> String {
    let names: Vec<String> = specs.iter().map(DatasetSpec::to_string).collect();
    names.join(", ")
}

/// The name and what stands after the `?`. In `part-?.jsonl` nothing does: options begin with a key and `=`.
fn split(text: &str) -> (&str, Option<&str>) {
    if Path::new(text).exists() {
        return (text, None);
    }
    let begins = |options: &str| {
        let (key, _) = options.split_once('=').unwrap_or_default();
        let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        !key.is_empty() && key.chars().all(in_name)
    };
    let mut marks = text.match_indices('?').map(|(at, _)| at);
    match marks.find(|at| begins(&text[at + 1..])) {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    }
}

fn of_text(text: &str) -> Result<DatasetParts> {
    let (name, options) = split(text);
    let (name, rows) = match name.rsplit_once('#') {
        Some((before, count)) if !Path::new(name).exists() => {
            let count = count
                .parse::<usize>()
                .with_context(|| format!("expected a number of rows after `#`, found `{count}`"))?;
            ensure!(count > 0, "`#0` leaves no rows");
            (before, Some(count))
        }
        _ => (name, None),
    };
    let mut parts = DatasetParts {
        name: name.to_owned(),
        rows,
        ..DatasetParts::default()
    };
    for option in options.into_iter().flat_map(|options| options.split('&')) {
        let (key, value) = option
            .split_once('=')
            .with_context(|| format!("expected KEY=VALUE after `?` and `&`, found `{option}`"))?;
        let key = decoded(key)?;
        ensure!(
            !value.contains('#'),
            "option {key}: `#` in `{value}`; a number of rows stands before the options (NAME#N?{key}=...), and in a value \
             `#` is written %23"
        );
        let value = decoded(value)?;
        if key == "format" {
            ensure!(parts.format.is_none(), "`format` is given twice");
            parts.format = Some(Spec::named(value));
            continue;
        }
        let options = match &mut parts.format {
            Some(format) => &mut format.options,
            None => &mut parts.options,
        };
        let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
        ensure!(
            options.insert(key.clone(), value).is_none(),
            "option {key} is given twice"
        );
    }
    Ok(parts)
}

fn decoded(text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.with_context(|| format!("`{text}`: its %XX are no UTF-8"))?;
    Ok(decoded.into_owned())
}

fn of_table(table: &DatasetTable) -> Result<DatasetParts> {
    let name = match (&table.path, &table.id) {
        (Some(path), None) => {
            ensure!(
                table.revision.is_none() && table.subsets.is_empty(),
                "revision and subsets are those of an `id`, and `path` is given"
            );
            path.clone()
        }
        (None, Some(id)) => {
            let mut name = id.clone();
            if let Some(revision) = &table.revision {
                name += &format!("@{revision}");
            }
            if !table.subsets.is_empty() {
                name += &format!(":{}", table.subsets.join("/"));
            }
            name
        }
        (Some(_), Some(_)) => bail!("`path` and `id` are given, expected one of them"),
        (None, None) => bail!("expected a table with `path` or `id`"),
    };
    ensure!(table.rows != Some(0), "rows = 0 leaves no rows");
    Ok(DatasetParts {
        name,
        rows: table.rows,
        options: table.options.clone(),
        format: table.format.clone(),
        columns: match table.columns.is_empty() {
            true => Value::Null,
            false => Value::Object(table.columns.clone()),
        },
    })
}

impl fmt::Display for DatasetSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Table(table) => {
                let name = table.path.as_ref().or(table.id.as_ref());
                f.write_str(name.map_or("(a table without path and id)", String::as_str))?;
                if let Some(rows) = table.rows {
                    write!(f, "#{rows}")?;
                }
                match &table.format {
                    Some(format) => write!(f, "?format={}", format.name),
                    None => Ok(()),
                }
            }
        }
    }
}

impl From<String> for DatasetSpec {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for DatasetSpec {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<'de> Deserialize<'de> for DatasetSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::Text(text)),
            table @ Value::Object(_) => {
                let table = DatasetTable::deserialize(table.into_deserializer());
                let spec = Self::Table(Box::new(table.map_err(D::Error::custom)?));
                let parts = spec
                    .parts()
                    .map_err(|error| D::Error::custom(format!("{error:#}")));
                parts.map(|_| spec)
            }
            other => Err(D::Error::custom(format!(
                "expected a text, or a table with `path` or `id`, found {}",
                kind_of(&other)
            ))),
        }
    }
}

impl FlagValue for Vec<DatasetSpec> {
    const KIND: ValueKind = ValueKind::Datasets;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parts(text: &str) -> DatasetParts {
        DatasetSpec::from(text).parts().unwrap()
    }

    fn error(spec: impl Into<DatasetSpec>) -> String {
        format!("{:#}", spec.into().parts().unwrap_err())
    }

    #[test]
    fn rows_stand_before_options() {
        let found =
            parts("o/n@v1:en/fr#7?format=ticket&include_bot=true&days=[1,2]&text=a%26b%20%23c");
        assert_eq!((found.name.as_str(), found.rows), ("o/n@v1:en/fr", Some(7)));
        let format = found.format.unwrap();
        assert_eq!(format.name, "ticket");
        assert_eq!(
            Value::Object(format.options),
            json!({"include_bot": true, "days": [1, 2], "text": "a&b #c"})
        );
        let component = parts("mine/tickets?year=2024&format=ticket&a=1");
        assert_eq!(Value::Object(component.options), json!({"year": 2024}));
        assert_eq!(
            Value::Object(component.format.unwrap().options),
            json!({"a": 1})
        );
        for plain in ["a.jsonl", "part-?.jsonl", "part-?.json?", "a b?c"] {
            assert_eq!(
                parts(plain),
                DatasetParts {
                    name: plain.into(),
                    ..Default::default()
                }
            );
        }
        let pattern = parts("part-?.jsonl?format=ticket");
        assert_eq!(pattern.name, "part-?.jsonl");
        assert_eq!(pattern.format, Some(Spec::named("ticket")));
    }

    #[test]
    fn what_exists_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.jsonl?format=x", "b#5", "c#5?k=v#2"] {
            let path = dir.path().join(name);
            std::fs::write(&path, "{}").unwrap();
            let text = path.display().to_string();
            assert_eq!(
                parts(&text),
                DatasetParts {
                    name: text.clone(),
                    ..Default::default()
                }
            );
        }
        let with = parts(&format!("{}?format=x", dir.path().join("b#5").display()));
        assert!(with.name.ends_with("b#5") && with.rows.is_none() && with.format.is_some());
    }

    #[test]
    fn mistakes_name_the_dataset_and_the_option() {
        for (text, expected) in [
            (
                "d#x",
                "dataset `d#x`: expected a number of rows after `#`, found `x`",
            ),
            ("d#0", "dataset `d#0`: `#0` leaves no rows"),
            (
                "d?format=a#5",
                "option format: `#` in `a#5`; a number of rows stands before the options",
            ),
            (
                "d?format=a&b",
                "expected KEY=VALUE after `?` and `&`, found `b`",
            ),
            ("d?format=a&b=1&b=2", "option b is given twice"),
            ("d?format=a&format=b", "`format` is given twice"),
            ("d?format=a&b=%ff", "`%ff`: its %XX are no UTF-8"),
        ] {
            let said = error(text);
            assert!(said.contains(expected) && said.contains(text), "{said}");
        }
    }

    #[test]
    fn a_table_says_the_same() {
        let read = |table: Value| serde_json::from_value::<DatasetSpec>(table);
        let table = json!({
            "id": "o/n", "revision": "v1", "subsets": ["en", "fr"], "rows": 7,
            "format": {"name": "ticket", "include_bot": true}, "columns": {"q": "query"}
        });
        let spec = read(table.clone()).unwrap();
        assert_eq!(serde_json::to_value(&spec).unwrap(), table);
        let found = spec.parts().unwrap();
        let same = parts("o/n@v1:en/fr#7?format=ticket&include_bot=true");
        assert_eq!(found.columns, json!({"q": "query"}));
        assert_eq!(
            found,
            DatasetParts {
                columns: found.columns.clone(),
                ..same
            }
        );
        assert_eq!(spec.to_string(), "o/n#7?format=ticket");
        let literal = read(json!({"path": "a#x?b=c"})).unwrap();
        assert_eq!(literal.parts().unwrap().name, "a#x?b=c");
        for (table, expected) in [
            (json!({"pth": "a"}), "unknown field `pth`"),
            (json!({"rows": 1}), "expected a table with `path` or `id`"),
            (json!({"path": "a", "id": "b/c"}), "expected one of them"),
            (json!({"path": "a", "revision": "b"}), "`path` is given"),
            (json!({"path": "a", "rows": 0}), "rows = 0 leaves no rows"),
            (json!(5), "found a number"),
        ] {
            let said = read(table).unwrap_err().to_string();
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn a_number_of_rows_is_added_where_none_is_said() {
        let with = |text: &str| DatasetSpec::from(text).with_rows(3).unwrap().to_string();
        assert_eq!(with("a.jsonl"), "a.jsonl#3");
        assert_eq!(with("a.jsonl#1"), "a.jsonl#1");
        assert_eq!(with("a.jsonl?format=x&y=%23"), "a.jsonl#3?format=x&y=%23");
        let table = serde_json::from_value::<DatasetSpec>(json!({"path": "a"})).unwrap();
        assert_eq!(table.with_rows(3).unwrap().parts().unwrap().rows, Some(3));
    }
}
