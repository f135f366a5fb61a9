//! A component in the program, and calls of it, one in a line or many.

use super::answer;
use super::child::{Child, Limit};
use super::pace::Pace;
use apus_sdk::{Error, Kind, Options, Result};
use serde::Serialize;
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
        let facts = child.ask(&format!("{label}, make"), Limit::Start, &question)?;
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
    pub fn call_all<T: DeserializeOwned>(
        &self,
        method: &str,
        all: &[impl Serialize],
    ) -> Vec<Result<T>> {
        if !self.batches {
            let call = |with| self.call(method, serde_json::to_value(with)?);
            return all.iter().map(call).collect();
        }
        let mut results = Vec::with_capacity(all.len());
        while results.len() < all.len() {
            let rest = &all[results.len()..];
            let most = self.pace.next().min(rest.len());
            results.extend(self.line(method, &rest[..most]));
        }
        results
    }

    /// The answers to the first of these calls, as many as go in a line.
    fn line<T: DeserializeOwned>(&self, method: &str, all: &[impl Serialize]) -> Vec<Result<T>> {
        let (question, calls) = match self.question(method, all) {
            Ok(question) => question,
            Err(error) => return vec![Err(error)],
        };
        let what = match calls {
            1 => self.what(method),
            _ => format!(
                "{} ({calls} calls in a line, of which this is one)",
                self.what(method)
            ),
        };
        let read = |line: &[u8], number| answer::each(line, number, calls);
        let answers = self.child.ask_by(&what, Limit::Call, &question, read);
        match answers {
            Ok((answers, took)) => {
                self.pace.took(calls, took);
                let failed =
                    |failed: String| Error::new(format!("{}: {failed}", self.what(method)));
                let answers = answers.into_iter();
                answers.map(|answer| answer.map_err(failed)).collect()
            }
            Err(error) => (0..calls).map(|_| Err(error.clone())).collect(),
        }
    }

    /// A line with the first of these calls, and how many they are.
    fn question(&self, method: &str, all: &[impl Serialize]) -> Result<(Vec<u8>, usize)> {
        let head = json!({"do": "call", "component": self.number, "method": method});
        let mut line = head.to_string().into_bytes();
        line.pop();
        line.extend_from_slice(b",\"batch\":[");
        let mut calls = 0;
        for with in all {
            if calls > 0 {
                line.push(b',');
            }
            serde_json::to_writer(&mut line, with)?;
            calls += 1;
            if line.len() >= BYTES {
                break;
            }
        }
        line.extend_from_slice(b"]}");
        Ok((line, calls))
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
    answer::shaped(answer).map_err(|why| child.fails(what, why))
}
