//! Chooses the dataset format that reads a file.

use super::Record;
use super::of_columns::{ColumnsRead, of_columns};
use anyhow::{Context, Result, bail};
use apus_components::registry::Spec;
use apus_sdk::{DatasetFormat, Row};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A format with its options as text, by which records name the format of their dataset.
pub fn format_key(spec: &Spec) -> Arc<str> {
    let mut key = spec.options.clone();
    key.insert("name".to_owned(), spec.name.clone().into());
    // With its keys in order, so that two ways of writing one format have one key.
    let key: BTreeMap<_, _> = key.into_iter().collect();
    Arc::from(serde_json::json!(key).to_string())
}

/// The formats that a run may use.
pub struct Formats {
    known: Vec<(String, Box<dyn DatasetFormat>)>,
    /// The columns that formats read which say so.
    columns: Vec<(String, Arc<ColumnsRead>)>,
    forced: Option<usize>,
    given: BTreeMap<Arc<str>, (String, Box<dyn DatasetFormat>)>,
}

impl Formats {
    /// Takes formats with their names. If `forced` names one of them, it reads every file.
    ///
    /// # Errors
    /// There is no format with the forced name; one cannot say which columns it reads.
    pub fn new(known: Vec<(String, Box<dyn DatasetFormat>)>, forced: Option<&str>) -> Result<Self> {
        let index = |name: &str| {
            let found = known.iter().position(|(known, _)| known == name);
            found.with_context(|| {
                let names: Vec<_> = known.iter().map(|(name, _)| name.as_str()).collect();
                format!("no dataset format `{name}`, known are {}", names.join(", "))
            })
        };
        let forced = forced.map(index).transpose()?;
        let mut columns = Vec::new();
        let known = known.into_iter().map(|(name, format)| {
            let format = of_columns_named(&name, format, &mut columns)?;
            Ok((name, format))
        });
        Ok(Self {
            known: known.collect::<Result<_>>()?,
            columns,
            forced,
            given: BTreeMap::new(),
        })
    }

    /// Adds a format that a dataset names.
    ///
    /// # Errors
    /// It cannot say which columns it reads.
    pub fn give(&mut self, spec: &Spec, format: Box<dyn DatasetFormat>) -> Result<()> {
        let format = of_columns_named(&spec.name, format, &mut self.columns)?;
        self.given
            .insert(format_key(spec), (spec.name.clone(), format));
        Ok(())
    }

    /// Lines about columns that a format reads and no row has. They hold once all rows are read.
    pub fn absent_columns(&self) -> Vec<String> {
        let absent = self.columns.iter().flat_map(|(name, read)| {
            let absent = read.absent().into_iter();
            absent.map(move |column| {
                format!("dataset format {name} reads a column `{column}`, which no row has")
            })
        });
        absent.collect()
    }

    /// Of rows with these columns, those that their format reads, if it says so. `key` is that of the format that their dataset
    /// names. A format that would not be recognised by what it reads gets whole rows.
    ///
    /// # Errors
    /// The format failed.
    pub fn columns_read(
        &self,
        key: Option<&Arc<str>>,
        columns: &[&str],
    ) -> Result<Option<Vec<String>>> {
        let row = |columns: &[&str]| -> Row {
            let columns = columns.iter();
            columns
                .map(|&name| (name.to_owned(), true.into()))
                .collect()
        };
        let chosen = match key {
            Some(key) => {
                let given = self.given.get(key);
                given.map(|(name, format)| (name.as_str(), format.as_ref()))
            }
            // Why none is recognised is said where the first row is read.
            None => self.recognise(&row(columns)).ok(),
        };
        let Some((name, format)) = chosen else {
            return Ok(None);
        };
        let Some(read) = format.columns()? else {
            return Ok(None);
        };
        let is_read = |column: &&str| read.iter().any(|read| read == column);
        let left: Vec<&str> = columns.iter().copied().filter(is_read).collect();
        let again = || self.recognise(&row(&left)).ok();
        let stays = key.is_some() || again().is_some_and(|(again, _)| again == name);
        Ok(stays.then_some(read))
    }

    /// The format of this name, of a record's dataset or of the run.
    ///
    /// # Errors
    /// There is none.
    pub fn of(&self, record: &Record, name: &str) -> Result<&dyn DatasetFormat> {
        if let Some(key) = &record.format {
            return Ok(self.given_for(record, key)?.1);
        }
        let found = self.known.iter().find(|(known, _)| known == name);
        let (_, format) = found.context("a file without a format")?;
        Ok(format.as_ref())
    }

    fn given_for(&self, record: &Record, key: &Arc<str>) -> Result<(&str, &dyn DatasetFormat)> {
        let given = self.given.get(key);
        let (name, format) =
            given.with_context(|| format!("{record}: the format {key} was not made"))?;
        Ok((name, format.as_ref()))
    }

    /// Chooses the format for rows like this one of a record: the one that its dataset names, or else the forced one, or else
    /// the one with the highest rank among those that recognise its columns.
    ///
    /// # Errors
    /// No format recognises the columns, or two formats with the same rank do; the error names the record.
    pub fn choose(&self, record: &Record, row: &Row) -> Result<(&str, &dyn DatasetFormat)> {
        match &record.format {
            Some(key) => self.given_for(record, key),
            None => self.recognise(row).with_context(|| record.to_string()),
        }
    }

    fn recognise(&self, row: &Row) -> Result<(&str, &dyn DatasetFormat)> {
        if let Some(index) = self.forced {
            let (name, format) = &self.known[index];
            return Ok((name, format.as_ref()));
        }
        let columns: Vec<&str> = row.keys().map(String::as_str).collect();
        let mut recognising = Vec::new();
        for (name, format) in &self.known {
            let rank = format
                .try_rank(&columns)
                .map_err(|error| anyhow::anyhow!("dataset format {name}: {error}"))?;
            recognising.extend(rank.map(|rank| (rank, name, format)));
        }
        recognising.sort_by_key(|(rank, ..)| std::cmp::Reverse(*rank));
        match recognising.as_slice() {
            [] => {
                let hint = match columns.as_slice() {
                    [one] if one.contains([';', '\t']) => "; a csv file has commas between columns",
                    _ => "",
                };
                let names: Vec<_> = self.known.iter().map(|(name, _)| name.as_str()).collect();
                bail!(
                    "no dataset format recognises the columns {}; known formats are {} (force one \
                     with --dataset_format, or for a dataset of several with DATASET?format=NAME){hint}",
                    columns.join(", "),
                    names.join(", ")
                )
            }
            [(first, a, _), (second, b, _), ..] if first == second => bail!(
                "dataset formats `{a}` and `{b}` both recognise the columns {}; choose one with \
                 --dataset_format, or for a dataset of several with DATASET?format=NAME",
                columns.join(", ")
            ),
            &[(_, name, format), ..] => Ok((name.as_str(), format.as_ref())),
        }
    }
}

/// A format as it is used, with the columns that it reads among those of the others.
fn of_columns_named(
    name: &str,
    format: Box<dyn DatasetFormat>,
    all: &mut Vec<(String, Arc<ColumnsRead>)>,
) -> Result<Box<dyn DatasetFormat>> {
    let (format, read) = of_columns(format).with_context(|| format!("dataset format {name}"))?;
    all.extend(read.map(|read| (name.to_owned(), read)));
    Ok(format)
}

#[cfg(test)]
mod tests {
    use super::*;
    use apus_sdk::{Result as SdkResult, Sample};

    struct Fake(&'static str, i32);
    impl DatasetFormat for Fake {
        fn recognises(&self, columns: &[&str]) -> bool {
            columns.contains(&self.0)
        }
        fn rank(&self) -> i32 {
            self.1
        }
        fn convert(&self, _: Row) -> SdkResult<Vec<Sample>> {
            Ok(Vec::new())
        }
    }

    fn formats(forced: Option<&str>) -> Result<Formats> {
        let fakes = [
            ("low", Fake("a", 1)),
            ("high", Fake("b", 2)),
            ("same", Fake("c", 2)),
        ];
        let boxed = fakes.map(|(name, fake)| (name.to_owned(), Box::new(fake) as _));
        Formats::new(boxed.into(), forced)
    }

    fn row(columns: &[&str]) -> Row {
        columns
            .iter()
            .map(|name| ((*name).to_owned(), 1.into()))
            .collect()
    }

    #[test]
    fn the_highest_rank_wins() {
        let formats = formats(None).unwrap();
        let choose = |columns: &[&str]| {
            formats
                .recognise(&row(columns))
                .map(|(name, _)| name.to_owned())
        };
        assert_eq!(choose(&["a"]).unwrap(), "low");
        assert_eq!(choose(&["a", "b"]).unwrap(), "high");
        let bad = choose(&["b", "c"]).unwrap_err().to_string();
        assert!(bad.contains("`high` and `same`"), "{bad}");
        let bad = choose(&["x", "y"]).unwrap_err().to_string();
        assert!(
            bad.contains("columns x, y") && bad.contains("low, high, same"),
            "{bad}"
        );
    }

    #[test]
    fn a_table_with_other_separators_is_explained() {
        let bad = formats(None)
            .unwrap()
            .recognise(&row(&["a;b"]))
            .err()
            .unwrap();
        assert!(
            bad.to_string()
                .ends_with("a csv file has commas between columns"),
            "{bad}"
        );
    }

    #[test]
    fn a_format_can_be_forced() {
        let (name, _) = formats(Some("low"))
            .unwrap()
            .recognise(&row(&["b"]))
            .map(|(n, _)| (n.to_owned(), ()))
            .unwrap();
        assert_eq!(name, "low");
        assert!(formats(Some("lo")).is_err());
    }

    #[test]
    fn the_format_of_a_dataset_comes_first() {
        let spec = |options: serde_json::Value| Spec {
            name: "mine".to_owned(),
            options: options.as_object().unwrap().clone(),
        };
        let one = spec(serde_json::json!({"a": 1, "b": 2}));
        assert_eq!(
            format_key(&one),
            format_key(&spec(serde_json::json!({"b": 2, "a": 1})))
        );
        let mut formats = formats(Some("low")).unwrap();
        formats.give(&one, Box::new(Fake("z", 0))).unwrap();
        let mut record = Record {
            source: "d.jsonl".into(),
            line: 1,
            text: String::new(),
            format: Some(format_key(&one)),
        };
        let (name, format) = formats.choose(&record, &row(&["b"])).unwrap();
        assert_eq!(
            (name, format.recognises(&["z"]), format.recognises(&["b"])),
            ("mine", true, false)
        );
        record.format = Some(format_key(&Spec::named("mine")));
        assert!(formats.choose(&record, &row(&["b"])).is_err());
        record.format = None;
        assert_eq!(formats.choose(&record, &row(&["b"])).unwrap().0, "low");
    }
}
