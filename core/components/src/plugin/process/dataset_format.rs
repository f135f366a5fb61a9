//! A dataset format in a process.
//!
//! Which rows it recognises is known once it is made, so only rows that it converts go to the program.

use super::Remote;
use apus_sdk::{Converted, DatasetFormat, Need, Result, Row, Sample, Setup};
use serde::{Deserialize, Serialize};
use serde_json::Value;

struct Format {
    remote: Remote,
    facts: Facts,
}

/// It recognises rows that have all of these columns; without any, none by itself.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Facts {
    columns: Vec<String>,
    rank: i32,
    /// The columns that it reads; it is sent no others.
    reads: Option<Vec<String>>,
}

pub(super) fn new(remote: Remote) -> Result<Box<dyn DatasetFormat>> {
    let facts: Facts = remote.facts()?;
    if facts.reads.is_some() && !remote.declares(Need::Columns) {
        return Err(remote.unannounced("make", "it says what it reads", Need::Columns));
    }
    Ok(Box::new(Format { remote, facts }))
}

/// The arguments of a call.
#[derive(Serialize)]
struct With<'a> {
    row: &'a Row,
}

impl Format {
    fn call(&self, row: &Row) -> Result<Vec<Value>> {
        self.remote.call("convert", With { row })
    }

    /// The samples that the program wrote: conversations, or rows of tokens.
    fn samples(&self, written: Vec<Value>) -> Result<Vec<Sample>> {
        let sample = |one: Value| {
            Ok(match one.get("input_ids") {
                Some(_) => Sample::Tokens(self.remote.read("convert", &one)?),
                None => Sample::Conversation(self.remote.read("convert", &one)?),
            })
        };
        written.into_iter().map(sample).collect()
    }

    fn converted(&self, written: Vec<Value>) -> Result<Converted> {
        Ok(Converted {
            samples: self.samples(written)?,
            unread: None,
        })
    }
}

impl DatasetFormat for Format {
    fn check(&self, setup: &Setup) -> Result<()> {
        self.remote.check(setup)
    }

    fn columns(&self) -> Result<Option<Vec<String>>> {
        Ok(self.facts.reads.clone())
    }

    fn recognises(&self, columns: &[&str]) -> bool {
        let own = &self.facts.columns;
        !own.is_empty() && own.iter().all(|column| columns.contains(&column.as_str()))
    }

    fn rank(&self) -> i32 {
        self.facts.rank
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        self.samples(self.call(&row)?)
    }

    fn convert_text_noting(&self, text: &str) -> Result<Converted> {
        self.converted(self.call(&self.row(text)?)?)
    }

    fn takes_batches(&self) -> bool {
        true
    }

    fn convert_texts_noting(&self, texts: &[&str]) -> Vec<Result<Converted>> {
        let rows: Vec<Result<Row>> = texts.iter().map(|text| self.row(text)).collect();
        let whole = rows.iter().filter_map(|row| row.as_ref().ok());
        let all: Vec<With> = whole.map(|row| With { row }).collect();
        let mut answers = self.remote.call_all("convert", &all).into_iter();
        let converted = rows.into_iter().map(|row| {
            row?;
            match answers.next() {
                Some(written) => self.converted(written?),
                None => Err("a call without an answer".into()),
            }
        });
        converted.collect()
    }
}
