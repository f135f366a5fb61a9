//! A component in the program, and calls of it, one in a line or many.

use super::answer;
use super::child::{Child, Limit};
use super::needs;
use super::pace::Pace;
use apus_sdk::{Error, Kind, Need, Options, Result, Run, Setup};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

/// The number of bytes of a batch at which no call is added to it.
const BYTES: usize = 1 << 20;

/// A component in the program, or the same in several processes of it.
pub struct Remote {
    places: Vec<Place>,
    about: About,
    /// What it said of itself when it was made.
    facts: Value,
    pace: Pace,
}

/// What is known of a component before it is made.
pub struct About {
    /// Its kind.
    pub kind: Kind,
    /// Its name, without prefix.
    pub name: String,
    /// What it has announced to use.
    pub needs: Vec<Need>,
    /// What errors call it.
    pub label: String,
    /// Whether the program takes many calls in a line.
    pub batches: bool,
}

/// Methods that any kind may have, each with what it has to announce for it.
const DECLARED: [(&str, Need); 2] = [("check", Need::Check), ("begin", Need::Run)];

/// A component in one process.
struct Place {
    child: Arc<Child>,
    number: u64,
}

impl Remote {
    /// Makes it in each of these processes, of which there is one at least.
    ///
    /// # Errors
    /// The program does not make it; it has a method that it has not announced.
    pub fn make(children: &[Arc<Child>], about: About, options: &Options) -> Result<Self> {
        let (kind, name, label) = (about.kind.name(), &about.name, &about.label);
        let (mut places, mut facts) = (Vec::new(), Value::Null);
        for child in children {
            let number = child.new_component();
            let question = json!({
                "do": "make", "component": number, "kind": kind, "name": name, "options": options,
            });
            facts = child.ask(&format!("{label}, make"), Limit::Start, &question)?;
            places.push(Place {
                child: Arc::clone(child),
                number,
            });
        }
        let has = facts
            .as_object_mut()
            .and_then(|facts| facts.shift_remove("has"));
        let made = Self {
            places,
            about,
            facts,
            pace: Pace::default(),
        };
        if let Some(has) = has {
            made.has(&made.read::<Vec<String>>("make", &has)?)?;
        }
        Ok(made)
    }

    /// Checks that these methods, which it says it has, are called: one that never is helps nobody.
    fn has(&self, methods: &[String]) -> Result<()> {
        for (method, need) in DECLARED {
            let could = needs::given(self.kind()).contains(&need) && !self.declares(need);
            if could && methods.iter().any(|has| has == method) {
                let why = format!("it has the method {method}");
                return Err(self.unannounced("make", &why, need));
            }
        }
        let gives_weights = methods.iter().any(|has| has == "evaluated_weights");
        match gives_weights && self.kind() == Kind::Callback {
            true => Err(Error::new(format!(
                "{}: it has the method evaluated_weights, which a process is not asked for: weights are tensors, and they do not \
                 go through lines of JSON. A plugin library gives them (docs/plugin-guide.md)",
                self.what("make")
            ))),
            false => Ok(()),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.about.kind
    }

    /// Whether it has announced this.
    pub fn declares(&self, need: Need) -> bool {
        need.is_in(&self.about.needs)
    }

    /// Shows it the set-up of a run, if it looks at one.
    ///
    /// # Errors
    /// What it says against it.
    pub fn check(&self, setup: &Setup) -> Result<()> {
        match self.declares(Need::Check) {
            true => self.call("check", json!({"setup": setup})),
            false => {
                setup.leave();
                Ok(())
            }
        }
    }

    /// Tells it of the run that it is part of, if it wants to know: the facts of the run, and its parameters by name.
    ///
    /// # Errors
    /// It does not go on with that.
    pub fn begin(&self, run: &Run) -> Result<()> {
        if !self.declares(Need::Run) {
            return Ok(());
        }
        let mut about = json!(run.info());
        about["config"] = run.config().clone();
        about["parameters"] = json!(run.parameters()?);
        self.call("begin", json!({"run": about}))
    }

    /// The error of a component that uses this without having announced it; `why` is how that shows.
    pub fn unannounced(&self, method: &str, why: &str, need: Need) -> Error {
        let error = needs::unannounced(self.kind(), &self.about.name, need, &self.about.needs);
        Error::new(format!("{}: {why}: {error}", self.what(method)))
    }

    /// The error of a call of which the program says that it failed. It may have looked for what it is not given.
    fn failed(&self, method: &str, said: &str) -> Error {
        match needs::missed(self.kind(), &self.about.needs, said) {
            Some(need) => self.unannounced(method, said, need),
            None => Error::new(format!("{}: {said}", self.what(method))),
        }
    }

    /// Where the fewest calls are under way.
    fn place(&self) -> Result<&Place> {
        let least = self.places.iter().min_by_key(|place| place.child.waiting());
        least.ok_or_else(|| Error::new(format!("{}: it is in no process", self.about.label)))
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
    pub fn call<T: DeserializeOwned>(&self, method: &str, with: impl Serialize) -> Result<T> {
        let place = self.place()?;
        let mut line = head(place.number, method);
        line.extend_from_slice(b",\"with\":");
        serde_json::to_writer(&mut line, &with)?;
        line.push(b'}');
        // What the program says has failed is read as an answer, since the component adds to it.
        let read = |line: &[u8], number| answer::read(line, number).map(Ok);
        let (answer, _) = place
            .child
            .ask_by(&self.what(method), Limit::Call, &line, read)?;
        let answer = answer.map_err(|said| self.failed(method, &said))?;
        self.read(method, &answer)
    }

    /// Calls a method of it many times; each call has an answer or an error of its own, in their order.
    pub fn call_all<T: DeserializeOwned>(
        &self,
        method: &str,
        all: &[impl Serialize],
    ) -> Vec<Result<T>> {
        if !self.about.batches {
            let call = |with| self.call(method, with);
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
                let failed = |said: String| self.failed(method, &said);
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
        format!("{}, {method}", self.about.label)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        for place in &self.places {
            place.child.forget(place.number);
        }
    }
}

/// The beginning of a line that calls a method.
fn head(component: u64, method: &str) -> Vec<u8> {
    let head = json!({"do": "call", "component": component, "method": method});
    let mut line = head.to_string().into_bytes();
    line.pop();
    line
}

/// A line with the first of these calls, and how many they are.
fn question(component: u64, method: &str, all: &[impl Serialize]) -> Result<(Vec<u8>, usize)> {
    let mut line = head(component, method);
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
