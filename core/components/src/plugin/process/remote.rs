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

/// A component in the program, or the same in several processes of it.
pub struct Remote {
    places: Vec<Place>,
    label: String,
    /// What it said of itself when it was made.
    facts: Value,
    batches: bool,
    pace: Pace,
}

/// A component in one process.
struct Place {
    child: Arc<Child>,
    number: u64,
}

impl Remote {
    /// Makes it in each of these processes, of which there is one at least; `label` is what errors call it.
    ///
    /// # Errors
    /// The program does not make it.
    pub fn make(
        children: &[Arc<Child>],
        batches: bool,
        kind: Kind,
        name: &str,
        options: &Options,
        label: &str,
    ) -> Result<Self> {
        let (mut places, mut facts) = (Vec::new(), Value::Null);
        for child in children {
            let number = child.new_component();
            let question = json!({
                "do": "make", "component": number, "kind": kind.name(), "name": name, "options": options,
            });
            facts = child.ask(&format!("{label}, make"), Limit::Start, &question)?;
            places.push(Place {
                child: Arc::clone(child),
                number,
            });
        }
        Ok(Self {
            places,
            label: label.to_owned(),
            facts,
            batches,
            pace: Pace::default(),
        })
    }

    /// Where the fewest calls are under way.
    fn place(&self) -> Result<&Place> {
        let least = self.places.iter().min_by_key(|place| place.child.waiting());
        least.ok_or_else(|| Error::new(format!("{}: it is in no process", self.label)))
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
        let place = self.place()?;
        let question =
            json!({"do": "call", "component": place.number, "method": method, "with": with});
        let answer = place
            .child
            .ask(&self.what(method), Limit::Call, &question)?;
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
        let question = self.place().and_then(|place| {
            let (question, calls) = question(place.number, method, all)?;
            Ok((place, question, calls))
        });
        let (place, question, calls) = match question {
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
        let answers = place.child.ask_by(&what, Limit::Call, &question, read);
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

    /// Reads what a method gave.
    ///
    /// # Errors
    /// It has another shape.
    pub fn read<T: DeserializeOwned>(&self, method: &str, answer: &Value) -> Result<T> {
        answer::shaped(answer).map_err(|why| {
            let fails = |place: &Place| place.child.fails(&self.what(method), why.clone());
            let errors: Vec<Error> = self.places.iter().map(fails).collect();
            let first = errors.into_iter().next();
            first.unwrap_or_else(|| Error::new(why))
        })
    }

    /// What errors of a method begin with.
    pub fn what(&self, method: &str) -> String {
        format!("{}, {method}", self.label)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        for place in &self.places {
            place.child.forget(place.number);
        }
    }
}

/// A line with the first of these calls, and how many they are.
fn question(component: u64, method: &str, all: &[impl Serialize]) -> Result<(Vec<u8>, usize)> {
    let head = json!({"do": "call", "component": component, "method": method});
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
