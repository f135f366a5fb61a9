//! A component in the program, and calls of it, one in a line or many.

use super::answer;
use super::child::{Child, Limit};
use super::pace::Pace;
use apus_sdk::{Error, Kind, Options, Result};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

/// The number of bytes of a batch at which no call is added to it.
const BYTES: usize = 1 << 20;

/// A component in the program.
pub struct Remote {
    child: Arc<Child>,
    number: u64,
    label: String,
    /// What it said of itself when it was made.
    facts: Value,
    batches: bool,
    pace: Pace,
}

impl Remote {
    /// Makes it; `label` is what errors call it.
    ///
    /// # Errors
    /// The program does not make it.
    pub fn make(
        child: Arc<Child>,
        batches: bool,
        kind: Kind,
        name: &str,
        options: &Options,
        label: &str,
    ) -> Result<Self> {
        let number = child.new_component();
        let question = json!({
            "do": "make", "component": number, "kind": kind.name(), "name": name, "options": options,
        });
        let (facts, _) = child.ask(&format!("{label}, make"), Limit::Start, &question)?;
        Ok(Self {
            child,
            number,
            label: label.to_owned(),
            facts,
            batches,
            pace: Pace::default(),
        })
    }

    /// What it said of itself, as the kind reads it.
    ///
    /// # Errors
    /// The kind knows no such fact.
    pub fn facts<T: DeserializeOwned + Default>(&self) -> Result<T> {
        match &self.facts {
            Value::Null => Ok(T::default()),
            facts => self.read("make", facts),
        }
    }

    /// Calls a method of it.
    ///
    /// # Errors
    /// The program says that it failed; it gives no answer, or one that is none.
    pub fn call<T: DeserializeOwned>(&self, method: &str, with: Value) -> Result<T> {
        let question =
            json!({"do": "call", "component": self.number, "method": method, "with": with});
        let (answer, _) = self.child.ask(&self.what(method), Limit::Call, &question)?;
        self.read(method, &answer)
    }

    /// Calls a method of it many times; each call has an answer or an error of its own, in their order.
    pub fn call_all<T: DeserializeOwned>(&self, method: &str, all: Vec<Value>) -> Vec<Result<T>> {
        let mut results = Vec::with_capacity(all.len());
        let mut all = all.into_iter().peekable();
        while all.peek().is_some() {
            let most = if self.batches { self.pace.next() } else { 1 };
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while batch.len() < most
                && bytes < BYTES
                && let Some(with) = all.next()
            {
                bytes += size(&with);
                batch.push(with);
            }
            match <[Value; 1]>::try_from(batch) {
                Ok([with]) if !self.batches => results.push(self.call(method, with)),
                Ok(one) => results.extend(self.line(method, one.into())),
                Err(batch) => results.extend(self.line(method, batch)),
            }
        }
        results
    }

    /// The answers to the calls of a line.
    fn line<T: DeserializeOwned>(&self, method: &str, batch: Vec<Value>) -> Vec<Result<T>> {
        let calls = batch.len();
        let what = match calls {
            1 => self.what(method),
            _ => format!(
                "{} ({calls} calls in a line, of which this is one)",
                self.what(method)
            ),
        };
        let question =
            json!({"do": "call", "component": self.number, "method": method, "batch": batch});
        let answers = self
            .child
            .ask(&what, Limit::Call, &question)
            .and_then(|(answer, took)| {
                self.pace.took(calls, took);
                answer::each(answer, calls).map_err(|why| self.child.fails(&what, why))
            });
        match answers {
            Ok(answers) => answers
                .into_iter()
                .map(|answer| match answer {
                    Ok(answer) => self.read(method, &answer),
                    Err(failed) => Err(Error::new(format!("{}: {failed}", self.what(method)))),
                })
                .collect(),
            Err(error) => (0..calls).map(|_| Err(error.clone())).collect(),
        }
    }

    /// Reads what a method gave.
    ///
    /// # Errors
    /// It has another shape.
    pub fn read<T: DeserializeOwned>(&self, method: &str, answer: &Value) -> Result<T> {
        read(&self.child, &self.what(method), answer)
    }

    /// What errors of a method begin with.
    pub fn what(&self, method: &str) -> String {
        format!("{}, {method}", self.label)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.child.forget(self.number);
    }
}

/// Reads an answer, whose shape is a mistake of the program if it does not fit.
///
/// # Errors
/// It does not fit; the program is ended.
pub fn read<T: DeserializeOwned>(child: &Child, what: &str, answer: &Value) -> Result<T> {
    T::deserialize(answer).map_err(|error| {
        let start = answer::start(&answer.to_string());
        child.fails(
            what,
            format!("the answer has another shape: {error}; it is {start}"),
        )
    })
}

/// About how many bytes a value has as text.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + size(value)).sum(),
        _ => 8,
    }
}
