//! A dataset format in a process.
//!
//! Which rows it recognises is known once it is made, so only rows that it converts go to the program.

use super::{Remote, read};
use apus_sdk::{Converted, DatasetFormat, Result, Row, Sample};
use serde::Deserialize;
use serde_json::{Value, json};

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
}

pub(super) fn new(remote: Remote) -> Result<Box<dyn DatasetFormat>> {
    let facts = remote.facts()?;
    Ok(Box::new(Format { remote, facts }))
}

/// A sample as the program writes it: a conversation, or a row of tokens.
fn sample(what: &str, written: Value) -> Result<Sample> {
    Ok(match written.get("input_ids") {
        Some(_) => Sample::Tokens(read(what, written)?),
        None => Sample::Conversation(read(what, written)?),
    })
}

impl Format {
    fn samples(&self, row: Value) -> Result<Vec<Sample>> {
        let written: Vec<Value> = self.remote.call("convert", json!({"row": row}))?;
        let what = self.remote.what("convert");
        written.into_iter().map(|one| sample(&what, one)).collect()
    }
}

impl DatasetFormat for Format {
    fn recognises(&self, columns: &[&str]) -> bool {
        let own = &self.facts.columns;
        !own.is_empty() && own.iter().all(|column| columns.contains(&column.as_str()))
    }

    fn rank(&self) -> i32 {
        self.facts.rank
    }

    fn convert(&self, row: Row) -> Result<Vec<Sample>> {
        self.samples(Value::Object(row))
    }

    fn convert_text(&self, text: &str) -> Result<Vec<Sample>> {
        self.samples(Value::Object(self.row(text)?))
    }

    fn convert_text_noting(&self, text: &str) -> Result<Converted> {
        Ok(Converted {
            samples: self.convert_text(text)?,
            unread: None,
        })
    }
}
